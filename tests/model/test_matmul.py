"""Every way a product is computed on the CPU gives the same numbers, in bounded memory."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model import matmul
from dsv4_mlx.model.layers import ExpertsLinear, GroupedLinear, Linear, expert_bounds
from dsv4_mlx.model.packed import Packed, Packing

PACKINGS = [
    Packing(32, 4, "mxfp4"),
    Packing(32, 8, "mxfp8"),
    Packing(64, 4, "affine"),
    Packing(32, 8, "affine"),
]


def _packed(packing: Packing, *shape: int) -> Packed:
    weight = mx.random.normal(shape, key=mx.random.key(7))
    stored = mx.quantize(
        weight, group_size=packing.group_size, bits=packing.bits, mode=packing.mode
    )
    return Packed(stored[0], stored[1], stored[2] if len(stored) == 3 else None, packing)


def _close(found: mx.array, expected: np.ndarray) -> None:
    error = np.abs(np.array(found, dtype=np.float64) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


@pytest.fixture(params=[1, 2, 5, 16, 17, 40], ids=lambda rows: f"rows={rows}")
def x(request: pytest.FixtureRequest) -> mx.array:
    return mx.random.normal((1, request.param, 256), key=mx.random.key(1))


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: f"{p.mode}{p.bits}")
@pytest.mark.parametrize("split", [1, 1 << 30], ids=["two-streams", "one-stream"])
def test_packed_product_is_the_product_with_the_unpacked_weight(
    x: mx.array, packing: Packing, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_SPLIT_ELEMENTS", split)
    monkeypatch.setattr(matmul, "_TILE_ELEMENTS", 256 * 20)  # several tiles, the last one ragged
    matrix = _packed(packing, 70, 256)
    values = np.array(matrix.unpack(), dtype=np.float64)
    found = matmul.product(x, matrix)
    assert found.dtype == mx.float32
    _close(found, np.array(x, dtype=np.float64) @ values.T)


@pytest.mark.parametrize("packing", [None, *PACKINGS[:2]], ids=["dense", "mxfp4", "mxfp8"])
def test_groups_are_consecutive_rows_of_the_weight(x: mx.array, packing: Packing | None) -> None:
    layer = GroupedLinear(4, 64, 24)
    layer.weight = mx.random.normal((96, 64), key=mx.random.key(3))
    values = layer.weight
    if packing:
        layer = layer.to_quantized(packing.group_size, packing.bits, packing.mode)
        values = Packed(layer.weight, layer.scales, None, packing).unpack()
    values = np.array(values, dtype=np.float64).reshape(4, 24, 64)
    inputs = x.reshape(1, x.shape[1], 4, 64)
    expected = np.einsum("bsgi,goi->bsgo", np.array(inputs, dtype=np.float64), values)
    _close(layer(inputs), expected)


@pytest.mark.parametrize("packing", [None, *PACKINGS[:2]], ids=["dense", "mxfp4", "mxfp8"])
@pytest.mark.parametrize("split", [1, 1 << 30], ids=["two-streams", "one-stream"])
def test_gathered_and_sorted_experts_agree(
    packing: Packing | None, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matmul, "_SPLIT_ELEMENTS", split)
    layer = ExpertsLinear(5, 64, 32)
    layer.weight = mx.random.normal((5, 32, 64), key=mx.random.key(3))
    values = layer.weight
    if packing:
        layer = layer.to_quantized(packing.group_size, packing.bits, packing.mode)
        values = Packed(layer.weight, layer.scales, None, packing).unpack()
    rows = mx.random.normal((23, 64), key=mx.random.key(4))
    experts = mx.array([0, 4, 2, 2, 0, 4, 4, 1, 2, 0, 4, 2, 2, 0, 4, 4, 1, 2, 0, 0, 0, 4, 2])
    expected = np.einsum(
        "ri,roi->ro",
        np.array(rows, dtype=np.float64),
        np.array(values, dtype=np.float64)[np.array(experts)],
    )
    index = mx.arange(23, dtype=mx.uint32)
    _close(layer.gathered(rows, index, experts.astype(mx.uint32)), expected)
    order, bounds = expert_bounds(experts)
    assert [e for e, _, _ in bounds] == [0, 1, 2, 4]
    _close(layer.sorted(rows[order], bounds)[mx.argsort(order)], expected)


def test_large_dense_product_is_halved_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_DENSE_SPLIT_ELEMENTS", 1)
    layer = Linear(48, 31)
    layer.weight = mx.random.normal((31, 48), key=mx.random.key(3))
    x = mx.random.normal((2, 3, 48), key=mx.random.key(4))
    _close(layer(x), np.array(x, dtype=np.float64) @ np.array(layer.weight, dtype=np.float64).T)


# MLX allocates up to ten operations ahead of the one that runs.
TILES_IN_FLIGHT = 10


def _peak_of(product: Callable[[], mx.array]) -> int:
    """Bytes allocated at the same time, beyond those that live already."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(product())
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8"])
def test_prefill_unpacks_few_tiles_at_a_time(mode: str) -> None:
    layer = ExpertsLinear(40, 512, 512)
    layer.weight = mx.random.normal((40, 512, 512), key=mx.random.key(3))
    layer = layer.to_quantized(32, 4 if mode == "mxfp4" else 8, mode)
    rows = mx.random.normal((40 * 20, 512), key=mx.random.key(4))
    mx.eval(rows, layer.parameters())
    bounds = [(expert, 20 * expert, 20 * expert + 20) for expert in range(40)]
    one_expert = 512 * 512 * 4
    outputs = rows.nbytes * 2  # the products, and their concatenation
    assert _peak_of(lambda: layer.sorted(rows, bounds)) < outputs + TILES_IN_FLIGHT * one_expert


def test_tiles_of_one_large_matrix_are_unpacked_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "_TILE_ELEMENTS", 1 << 18)
    matrix = _packed(PACKINGS[1], 16384, 512)  # 32 tiles of 1 MiB unpacked
    x = mx.random.normal((20, 512), key=mx.random.key(4))
    mx.eval(matrix.weight, matrix.scales, x)
    outputs = 2 * 20 * 16384 * 4
    peak = _peak_of(lambda: matmul.product(x, matrix))
    assert peak < outputs + TILES_IN_FLIGHT * (1 << 20)
