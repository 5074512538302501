"""expert_matmul's texts: how rows fall on experts, edges of tiles, what NaN reaches."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import ContractError, random_normal
from metal_kernels.expert_matmul import KERNEL, packed
from metal_kernels.expert_matmul.launch import BLOCK_ROWS, most_blocks, multiplied_rows
from metal_kernels.registry import bind
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

# Rows of each expert: none, a tile's edges, a block's edges, more blocks.
FALLS = {
    "one": [0, 1, 0],
    "none in the middle": [3, 0, 0, 5],
    "edges": [7, 8, 9, 31, 32, 33],
    "one expert": [70],
    "last": [0, 0, 0, 0, 20],
    "many": [1, 2] * 20,
}
SIZES = pairwise(fall=list(FALLS), width=[32, 96, 160], out=[1, 15, 64, 67], seed=range(4))


def arguments(fall: str, width: int, out: int, seed: int, gathered: bool = True) -> dict:
    counts = FALLS[fall]
    experts = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    codes, scales = packed(seed, len(counts), out, width)
    M = max(1, len(experts) // 2) if gathered else len(experts)
    rows = np.random.default_rng(seed).integers(0, M, len(experts)).astype(np.uint32)
    return {
        "x": random_normal(seed + 1, M, width),
        "codes": codes,
        "scales": scales,
        "experts": mx.array(experts),
        "rows": mx.array(rows) if gathered else None,
    }


@pytest.mark.parametrize("sizes", thinned(SIZES))
def test_sizes(sizes: dict) -> None:
    given = arguments(**sizes, gathered=sizes["seed"] % 2 == 0)
    assert_text_matches(KERNEL, given, sizes_id(sizes), order=sizes["seed"])


def product(given: dict) -> np.ndarray:
    with host_plan() as plan:
        return np.array(plan.ops.expert_matmul(**given))


def test_small_whole_numbers_are_multiplied_exactly() -> None:
    """All sixteen codes in every place of a group, and scales from the smallest on."""
    codes = np.stack([np.roll(np.arange(32) % 16, shift) for shift in range(16)])
    words = (codes.reshape(16, 4, 8) << (4 * np.arange(8))).sum(-1).astype(np.uint32)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])[codes % 8] * np.where(codes >= 8, -1.0, 1.0)
    x = np.eye(32, dtype=np.float32)
    for scale in (2, 64, 127, 128, 250):
        found = product(
            {
                "x": mx.array(x),
                "codes": mx.array(words[None]),
                "scales": mx.full((1, 16, 1), scale).astype(mx.uint8),
                "experts": mx.zeros(32, mx.uint32),
            }
        )
        expected = (values.T * 2.0 ** (scale - 127)).astype(np.float32)
        np.testing.assert_array_equal(found, expected)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Reading a prompt in other pieces changes no bit but between few rows and many."""
    given = arguments("edges", 96, 24, seed=3, gathered=False)
    together = product(given)

    def part(first: int, stop: int) -> np.ndarray:
        return product(given | {name: given[name][first:stop] for name in ("x", "experts")})

    for first, stop in ((1, 7), (0, 15), (2, 14), (7, 24), (24, 55), (30, 60), (55, 87)):
        np.testing.assert_array_equal(part(first, stop), together[first:stop])
    few = part(8, 12)
    np.testing.assert_allclose(few, together[8:12], rtol=0, atol=1e-5)
    for first, stop in ((8, 9), (9, 12), (10, 12)):
        np.testing.assert_array_equal(part(first, stop), few[first - 8 : stop - 8])


def test_nan_in_a_row_or_a_scale_reaches_only_what_it_meets() -> None:
    given = arguments("none in the middle", 64, 10, seed=1, gathered=False)
    x, scales = np.array(given["x"]), np.array(given["scales"])
    x[1, 40], scales[3, 4, 1] = np.nan, 255
    found = product(given | {"x": mx.array(x), "scales": mx.array(scales)})
    expected = np.zeros(found.shape, bool)
    expected[1], expected[3:, 4] = True, True
    np.testing.assert_array_equal(np.isnan(found), expected)


@pytest.mark.parametrize("fall", FALLS)
def test_no_fall_of_the_rows_has_more_blocks_than_there_are(fall: str) -> None:
    counts = FALLS[fall]
    blocks = sum(-(-count // BLOCK_ROWS) for count in counts)
    assert blocks <= most_blocks(sum(counts), len(counts))


def test_the_rows_that_are_multiplied_are_counted() -> None:
    rows = {0: 0, 1: 1, 4: 4, 5: 8, 8: 8, 9: 16, 31: 32, 32: 32, 33: 33, 40: 40, 69: 72}
    assert {n: multiplied_rows(n) for n in rows} == rows


def test_the_bound_of_blocks_is_reached() -> None:
    assert most_blocks(33 * 4, 4) == 8
    assert most_blocks(5, 300) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"x": mx.zeros((3, 32), mx.bfloat16)},
        {"x": mx.zeros((3, 48))},
        {"scales": mx.zeros((2, 8, 2), mx.uint8)},
        {"codes": mx.zeros((2, 8, 4), mx.int32)},
    ],
)
def test_other_packings_are_refused(change: dict) -> None:
    given = {
        "x": mx.zeros((3, 32)),
        "codes": mx.zeros((2, 8, 4), mx.uint32),
        "scales": mx.zeros((2, 8, 1), mx.uint8),
        "experts": mx.zeros(3, mx.uint32),
    }
    with pytest.raises(ContractError, match="expert_matmul: expected x float32"):
        bind("metal").ops.expert_matmul(**given | change)
