"""packed_matvec's text: a row has the bits that it has alone, at the shapes of the releases."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from metal_kernels.contract import ContractError, random_normal
from metal_kernels.packed_matvec import packed
from tests.kernels.host import host_plan, launched

pytestmark = pytest.mark.needs("metalhost")

# Bits, group and dtype of scales.
MXFP8, MXFP4 = (8, 32, None), (4, 32, None)
AFFINE = [(bits, 64, mx.float32) for bits in (2, 3, 4, 5, 6, 8)]
_REDUCED = 8


def shapes(config: DeepseekV4Config) -> dict[str, tuple[int, int]]:
    """Inputs, an eighth of the release's, and matrices side by side, of its packed products."""
    D, width = config.hidden_size, config.moe_intermediate_size
    per_group = config.num_attention_heads * config.head_dim // config.o_groups
    inputs = {
        "q_a, kv, shared gate and up": (D, 1),
        "q_b and the index's": (config.q_lora_rank, 1),
        "o_a": (per_group, config.o_groups),
        "o_b": (config.o_groups * config.o_lora_rank, 1),
        "shared down": (width * config.n_shared_experts, 1),
    }
    return {name: (K // _REDUCED, g) for name, (K, g) in inputs.items()}


def products() -> Iterator[Any]:
    for K, g in sorted({shape for config in (FLASH, PRO) for shape in shapes(config).values()}):
        for form in (MXFP8, MXFP4, *AFFINE):
            bits, group, _ = form
            plain = form in (MXFP8, MXFP4, AFFINE[2])
            name = f"{'affine' if form in AFFINE else 'mxfp'}{bits}-{g}x{K}"
            if K % group == 0:
                marks = () if plain else pytest.mark.slow
                yield pytest.param(K, g, form, id=name, marks=marks)


@pytest.mark.parametrize(("K", "g", "form"), [*products()])
def test_a_row_has_the_bits_that_it_has_alone(K: int, g: int, form: tuple[Any, ...]) -> None:
    """Among two to eight rows, and whatever outputs are beside its own."""
    bits, group, dtype = form
    weight = packed(K + bits, (8 * g,), K, bits, group, dtype)
    x = random_normal(K, 8, g, K)
    with host_plan("fast") as plan:
        alone = [np.array(plan.ops.packed_matvec(x[r : r + 1], **weight)) for r in range(8)]
        for n in (2, 5, 8):
            found = np.array(plan.ops.packed_matvec(x[:n], **weight))
            np.testing.assert_array_equal(found, np.concatenate(alone[:n]))
        if g == 1:
            fewer = {
                name: value[:6] if isinstance(value, mx.array) else value
                for name, value in weight.items()
            }
            found = np.array(plan.ops.packed_matvec(x[:3], **fewer))
            np.testing.assert_array_equal(found, np.concatenate(alone[:3])[:, :6])


EXPERTS = [
    pytest.param(K, form, each, id=f"{form[0]}-bits-{K}{'-each' * each}", marks=marks)
    for K, each in ((FLASH.hidden_size // 8, False), (PRO.hidden_size // 8, False), (256, True))
    for form, marks in ((MXFP4, ()), (AFFINE[0], pytest.mark.slow), (AFFINE[2], pytest.mark.slow))
]


@pytest.mark.parametrize(("K", "form", "each"), EXPERTS)
def test_a_choice_has_the_bits_that_it_has_alone(K: int, form: Any, each: bool) -> None:
    """Of tokens that share experts, and where a token has them in another order."""
    bits, group, dtype = form
    weight = packed(K, (7, 8), K, bits, group, dtype)
    experts = mx.argsort(random_normal(1, 8, 7), axis=1)[:, :3].astype(mx.uint32)
    x = random_normal(2, 24 if each else 8, K)
    step = 3 if each else 1
    with host_plan("fast") as plan:
        alone = [
            np.array(
                plan.ops.expert_matvec(
                    x[step * m : step * (m + 1)], experts=experts[m : m + 1], **weight
                )
            )
            for m in range(8)
        ]
        for n in (2, 5, 8):
            found = plan.ops.expert_matvec(x[: step * n], experts=experts[:n], **weight)
            np.testing.assert_array_equal(np.array(found), np.concatenate(alone[:n]))
        # One matrix: what packed_matvec gives of it.
        own = {
            name: value[experts[0, 0].item()] if isinstance(value, mx.array) else value
            for name, value in weight.items()
        }
        single = np.array(plan.ops.packed_matvec(x[:1, None], **own))
    np.testing.assert_array_equal(single, alone[0][:, 0])


def test_one_token_more_reads_no_matrix_again() -> None:
    """Choices of an expert that another one had before load nothing of a matrix."""
    weight = packed(0, (4, 16), 512, 4, 32, None)
    counts = []
    for experts in ([[0, 1]], [[0, 1], [1, 0]], [[0, 1], [2, 3]]):
        x = random_normal(0, len(experts), 512)
        with host_plan() as plan, launched() as launches:
            mx.eval(plan.ops.expert_matvec(x, experts=mx.array(experts, mx.uint32), **weight))
        counts.append(launches[0].counts.checked_accesses)
    one, same, others = counts
    # Two matrices of 16 outputs: 32 lanes load words and a scale of each output.
    matrices = 2 * 16 * 32 * 2
    assert others - same >= matrices and same < 2 * one


def test_one_row_waits_for_nothing_and_loads_wide() -> None:
    """Of 512 inputs a lane has sixteen: for each of four outputs words and a scale, of x 4 loads;
    then a sum is stored for each output. No barrier, as in MLX's product of one row."""
    for bits, words in ((8, 1), (4, 1)):
        weight = packed(0, (8,), 1024, bits, 32, None)
        with host_plan() as plan, launched() as launches:
            mx.eval(plan.ops.packed_matvec(random_normal(0, 1, 1, 1024), **weight))
        (launch,) = launches
        assert (launch.threads, launch.counts.most_barriers) == (64, 0)
        per_chunk = 4 * (words + 1) + 4
        # Beside them the numbers without dimensions and the shapes.
        assert 2 * per_chunk + 4 <= launch.counts.most_accesses <= 2 * per_chunk + 4 + 16


def test_nan_reaches_its_row_and_group_alone() -> None:
    weight = packed(0, (8,), 64, 8, 32, None)
    x = mx.ones((3, 2, 64))
    x[1, 0, 63] = mx.nan
    with host_plan() as plan:
        found = np.isnan(np.array(plan.ops.packed_matvec(x, **weight)))
    assert found[1, :4].all() and found.sum() == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": 6}, "expected float32 rows and a weight that MLX packed"),
        ({"group_size": 64}, "expected float32 rows and a weight that MLX packed"),
        ({"x": mx.zeros((1, 3, 64))}, "expected a weight of 3 matrices"),
    ],
)
def test_what_the_text_would_misread_is_refused(change: dict[str, Any], words: str) -> None:
    given = {"x": mx.zeros((1, 1, 64)), **packed(0, (8,), 64, 8, 32, None), **change}
    with host_plan() as plan, pytest.raises(ContractError, match=words):
        plan.ops.packed_matvec(**given)
