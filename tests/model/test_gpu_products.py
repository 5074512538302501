"""What a GPU plan multiplies differently, on this CPU: MLX's primitives run on either.

The kernels are the references here, so that only products and the order of the experts' rows differ
from the CPU's.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.loading import load_model
from dsv4_mlx.model import matmul
from dsv4_mlx.model.expert_rows import takes_blocks
from dsv4_mlx.model.experts import _GPU_SORTED_ROWS, Experts
from dsv4_mlx.model.layers import ExpertsLinear
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.packed import Matrix, Packed, Packing
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.weights.checkpoint import open_checkpoint
from metal_kernels.registry import KernelPlan, as_ops, kernels
from tests.model import running

CLOSE = 1e-4


def references_as(backend: str) -> KernelPlan:
    """A plan of this backend whose kernels are the references."""
    ops = {name: kernel.reference for name, kernel in kernels().items()}
    chosen = dict.fromkeys(ops, "reference")
    return KernelPlan(backend, as_ops(backend, ops), chosen)


def model(folder: Path, backend: str, dtype: mx.Dtype) -> Model:
    return load_model(
        open_checkpoint(folder),
        dtype=dtype,
        numerics=Numerics.PLAIN,
        backend="cpu",
        kernels=references_as(backend),
    )


@pytest.fixture(scope="module", params=["tiny", pytest.param("nano", marks=pytest.mark.slow)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = running.checkpoint_folder(request.param, tmp_path_factory.mktemp("checkpoint"))
    return model(folder, "metal", mx.bfloat16), model(folder, "cpu", mx.float32)


def prompt(own: Model, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, own.config.vocab_size, count)


@pytest.mark.parametrize("sizes", [[1, 1], [8, 1], [9, 1, 1], [140, 1, 33]], ids=str)
def test_logits_are_the_cpus(pair: tuple[Model, Model], sizes: list[int]) -> None:
    parts = running.pieces(prompt(pair[0], sum(sizes)), sizes)
    found, expected = (running.feed(own, own.make_cache(), parts) for own in pair)
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_a_ragged_batch_is_the_cpus(pair: tuple[Model, Model]) -> None:
    prompts = [prompt(pair[0], n) for n in (3, 37, 12)]
    for found, expected in zip(*(running.run_batch(own, prompts) for own in pair), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("tokens", [1, 2, 70])
def test_experts_take_the_way_of_their_number(
    pair: tuple[Model, Model], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, ways = pair[0], []
    for name in ("_sorted_on_gpu", "_gathered", "_sorted"):
        way = getattr(Experts, name)
        monkeypatch.setattr(
            Experts, name, lambda *a, way=way, name=name: ways.append(name) or way(*a)
        )
    mx.eval(own(mx.array(prompt(own, tokens))[None]))
    sorts = tokens * own.config.num_experts_per_tok >= _GPU_SORTED_ROWS
    assert set(ways) == ({"_sorted_on_gpu"} if sorts else set())


@pytest.mark.parametrize("tokens", [10, 40, 70])
def test_mxfp4_experts_are_multiplied_by_blocks_where_those_are_fewer(
    pair: tuple[Model, Model], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, seen = pair[0], []
    by_blocks = ExpertsLinear.by_blocks
    monkeypatch.setattr(
        ExpertsLinear, "by_blocks", lambda *a: seen.append(a[1].shape[0]) or by_blocks(*a)
    )
    k, experts = own.config.num_experts_per_tok, own.config.n_routed_experts
    mx.eval(own(mx.array(prompt(own, tokens))[None]))
    fewer = tokens * k >= _GPU_SORTED_ROWS and takes_blocks(tokens, k, experts)
    assert bool(seen) == fewer
    monkeypatch.undo()
    packing = Packing(64, 4, "affine")  # other packings have no such kernel
    layer = own.layers[0].mlp.experts
    assert layer.takes_blocks(70, k)
    monkeypatch.setattr(layer.gate_up_proj, "_packing", packing)
    assert not layer.takes_blocks(70, k)


@pytest.mark.parametrize("mode", [None, "mxfp4", "mxfp8", "affine"])
@pytest.mark.parametrize("rows", [1, 3, 8, 9])
def test_products_of_any_form_are_the_cpus(mode: str | None, rows: int) -> None:
    x, weight = (
        mx.random.normal(shape, key=mx.random.key(seed))
        for seed, shape in enumerate([(2, rows, 4, 64), (4 * 24, 64)])
    )
    matrix: Matrix = weight.astype(mx.bfloat16)
    if mode:
        packing = Packing(32, 4 if mode == "mxfp4" else 8, mode)
        codes, scales, *biases = mx.quantize(weight, **vars(packing))
        matrix = Packed(codes, scales, biases[0] if biases else None, packing)
    gpu, cpu = (references_as(backend).ops for backend in ("metal", "cpu"))
    for multiply in (matmul.product, matmul.grouped):
        found, expected = (np.array(multiply(x, matrix, ops)) for ops in (gpu, cpu))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
