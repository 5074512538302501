"""Routers, experts and their sum against the oracle; packed and sorted experts against plain."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model import experts as experts_module
from dsv4_mlx.model.layers import ExpertsLinear, expert_bounds
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from tests.model import small
from tests.oracle import v4_numpy as v4

E, K = small.CONFIG["n_routed_experts"], small.CONFIG["num_experts_per_tok"]


def pair(hashed: bool = False, numerics: Numerics = Numerics.PLAIN) -> tuple[Model, v4.Layer]:
    settings = small.one_layer(0, num_hash_layers=int(hashed))
    tensors = small.weights(settings)
    official = numerics is Numerics.OFFICIAL
    layer = v4.Layer(settings, tensors, "layers.0.", 0, hashed, official)
    return small.model(settings, tensors, numerics), layer


def inputs(rows: int) -> np.ndarray:
    x = np.random.default_rng(rows).standard_normal((rows, 48))
    return x.astype(np.float32).astype(np.float64)


def array(x: np.ndarray) -> mx.array:
    return mx.array(x.astype(np.float32))


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_router_equals_the_oracle(hashed: bool, rows: int) -> None:
    ours, layer = pair(hashed)
    x, tokens = inputs(rows), small.TOKENS[:rows]
    experts, weights = ours.layers[0].mlp.gate(array(x), mx.array(tokens))
    _, (expected, expected_weights, margins) = v4._moe(layer, x, tokens, None)
    assert (margins > 1e-4).all()
    order = np.argsort(expected, axis=1), np.argsort(np.array(experts), axis=1)
    expected, expected_weights = (
        np.take_along_axis(a, order[0], axis=1) for a in (expected, expected_weights)
    )
    found, found_weights = (
        np.take_along_axis(np.array(a), order[1], axis=1) for a in (experts, weights)
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found_weights, expected_weights, rtol=1e-5)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("rows", [1, 10, 11, 100])
def test_plain_output_equals_the_oracle(hashed: bool, rows: int) -> None:
    """Up to 32 pairs of row and expert are gathered, more are sorted by expert."""
    ours, layer = pair(hashed)
    x, tokens = inputs(rows), small.TOKENS[:rows]
    expected, _ = v4._moe(layer, x, tokens, None)
    found = np.array(ours.layers[0].mlp(array(x[None]), mx.array(tokens[None])))[0]
    assert small.relative_error(found, expected) < 3e-6


def test_official_output_is_rounded_once_to_bf16() -> None:
    """Equal wherever float32 noise cannot decide the rounding, else between both outcomes."""
    ours, _ = pair(numerics=Numerics.OFFICIAL)
    _, plain = pair()
    x, tokens = v4.round_bf16(inputs(40)), small.TOKENS[:40]
    exact, (_, _, margins) = v4._moe(plain, x, tokens, None)
    assert (margins > 1e-5).all()
    found = np.array(ours.layers[0].mlp(array(x[None]), mx.array(tokens[None]))[0], np.float64)
    np.testing.assert_array_equal(found, v4.round_bf16(found))
    noise = 1e-5 * np.abs(exact).max()  # three times what plain outputs may be off by
    low, high = v4.round_bf16(exact - noise), v4.round_bf16(exact + noise)
    assert (low == high).mean() > 0.9
    assert ((low <= found) & (found <= high)).all()


def test_batch_shape_and_order_are_kept() -> None:
    ours, _ = pair(hashed=True)
    x, tokens = array(inputs(12)).reshape(3, 4, 48), mx.array(small.TOKENS[:12]).reshape(3, 4)
    mlp = ours.layers[0].mlp
    together = mlp(x, tokens)
    assert together.shape == x.shape
    for row in range(3):
        alone = mlp(x[row : row + 1], tokens[row : row + 1])
        np.testing.assert_allclose(np.array(together[row]), np.array(alone[0]), atol=1e-4)


@pytest.mark.parametrize("mode", [None, "mxfp4", "mxfp8"])
def test_sorted_experts_equal_gathered_ones(monkeypatch, mode: str | None) -> None:
    ours, _ = pair()
    experts = ours.layers[0].mlp.experts
    width = 64 if mode else 48  # packed widths are multiples of 32
    if mode:
        bits = 4 if mode == "mxfp4" else 8
        for name, shape in (("gate_up_proj", (E, 64, 64)), ("down_proj", (E, 64, 32))):
            matrix = getattr(experts, name)
            matrix.weight = mx.random.normal(shape, key=mx.random.key(0)) / 8
            setattr(experts, name, matrix.to_quantized(group_size=32, bits=bits, mode=mode))
    random = np.random.default_rng(0)
    x = array(random.standard_normal((50, width)))
    chosen = mx.array(random.random((50, E)).argsort(axis=1)[:, :K].astype(np.uint32))
    weights = array(random.random((50, K)))
    results = []
    for limit in (0, 10**6):
        monkeypatch.setattr(experts_module, "_SORTED_ROWS", limit)
        routed, shared = experts(x, chosen, weights, mx.ones((50, 8)))
        results.append(np.array(routed))
        assert shared.shape == (50, 4)
    assert results[0].shape == (50, K, width)
    np.testing.assert_allclose(results[0], results[1], atol=1e-4)


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8"])
def test_packed_experts_equal_their_own_values(mode: str) -> None:
    dense = ExpertsLinear(3, 64, 32)
    dense.weight = mx.random.normal((3, 32, 64), key=mx.random.key(0))
    bits = 4 if mode == "mxfp4" else 8
    packed = dense.to_quantized(group_size=32, bits=bits, mode=mode)
    dense.weight = mx.dequantize(packed.weight, packed.scales, mode=mode, dtype=mx.float32)
    x, rows = mx.random.normal((5, 64), key=mx.random.key(1)), mx.array([0, 4, 2, 2, 1, 3])
    rows, chosen = rows.astype(mx.uint32), mx.array([0, 2, 1, 1, 0, 2], mx.uint32)
    np.testing.assert_allclose(
        np.array(packed.gathered(x, rows, chosen)),
        np.array(dense.gathered(x, rows, chosen)),
        atol=1e-4,
    )
    bounds = [(0, 0, 2), (2, 2, 5)]
    np.testing.assert_allclose(
        np.array(packed.sorted(x, bounds)), np.array(dense.sorted(x, bounds)), atol=1e-4
    )


def test_bounds_cover_every_row_once_and_skip_idle_experts() -> None:
    order, bounds = expert_bounds(mx.array([5, 0, 5, 2, 0, 5], mx.int32))
    assert order.tolist() == [1, 4, 3, 0, 2, 5]
    assert bounds == [(0, 0, 2), (2, 2, 3), (5, 3, 6)]


def test_an_expert_that_nobody_chose_changes_nothing() -> None:
    ours, _ = pair()
    mlp, x, tokens = ours.layers[0].mlp, array(inputs(2)), mx.array(small.TOKENS[:2])
    chosen, _ = mlp.gate(x, tokens)
    idle = next(e for e in range(E) if e not in set(np.array(chosen).ravel().tolist()))
    before = mlp(x[None], tokens[None])
    mlp.experts.down_proj.weight[idle] = float("nan")
    assert mx.array_equal(mlp(x[None], tokens[None]), before)
