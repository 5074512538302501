"""Known pitfalls of routing and experts: rows 21 to 26."""

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.hash_router.reference as hash_router
import metal_kernels.router.reference as router
from dsv4_mlx.model.experts import Experts, SharedExpert
from dsv4_mlx.model.moe import MoE
from dsv4_mlx.model.router import HashRouter
from dsv4_mlx.model.v4 import Model
from metal_kernels.registry import plan
from tests.model import small
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, replace_op, wrap
from tests.oracle import v4_numpy as v4

PITFALLS = Pitfalls()


def array(x: np.ndarray) -> mx.array:
    return mx.array(np.asarray(x, np.float32))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def replace_in_both_routers(patch: pytest.MonkeyPatch, name: str, make) -> None:
    original = getattr(router, name)
    for module in (router, hash_router):
        patch.setattr(module, name, make(original))


def one_layer(hashed: bool = False, **changes: object) -> tuple[dict, dict, Model]:
    settings = small.one_layer(0, num_hash_layers=int(hashed), **changes)
    tensors = small.weights(settings)
    return settings, tensors, small.model(settings, tensors)


def assert_moe_equals_a_sum_over_experts(hashed: bool, rows: int) -> None:
    """Router, routed experts and shared expert of one layer against loops over the tokens."""
    settings, tensors, ours = one_layer(hashed)
    w = {name.removeprefix("layers.0.ffn."): value for name, value in tensors.items()}
    x, tokens = random(rows, 48), small.TOKENS[:rows]
    found = np.array(ours.layers[0].mlp(array(x[None]), mx.array(tokens[None])))[0]
    for row, token, result in zip(x, tokens, found, strict=True):
        scores = np.sqrt(np.log1p(np.exp(w["gate.weight"] @ row)))
        if hashed:
            chosen = w["gate.tid2eid"][token]
        else:
            chosen = np.argsort(-(scores + w["gate.bias"]))[: settings["num_experts_per_tok"]]
        total = settings["routed_scaling_factor"] / scores[chosen].sum()
        parts = {f"experts.{e}.": total * scores[e] for e in chosen} | {"shared_experts.": 1.0}
        expected = 0
        for name, weight in parts.items():
            gate, up = (w[f"{name}{part}.weight"] @ row for part in ("w1", "w3"))
            gate, up = np.minimum(gate, 10), np.clip(up, -10, 10)
            hidden = weight * gate / (1 + np.exp(-gate)) * up
            expected = expected + w[f"{name}w2.weight"] @ hidden
        np.testing.assert_allclose(result, expected, atol=2e-4)


# --- 21: the router's precision and its bias -----------------------------------------------------


def bf16_router(patch: pytest.MonkeyPatch) -> None:
    def make(scores):
        def wrong(x, weight):
            logits = (x @ weight.astype(mx.float32).T).astype(mx.bfloat16).astype(mx.float32)
            return mx.sqrt(mx.logaddexp(logits, 0.0))

        return wrong

    replace_in_both_routers(patch, "expert_scores", make)


def bias_in_the_weights(patch: pytest.MonkeyPatch) -> None:
    def make(op):
        def wrong(x, weight, bias, *, k, scaling):
            experts, _ = op(x, weight, bias, k=k, scaling=scaling)
            biased = router.expert_scores(x, weight) + bias
            return experts, router.normalised_weights(biased, experts, scaling)

        return wrong

    replace_op(patch, "router", make)


def bias_missing(patch: pytest.MonkeyPatch) -> None:
    replace_op(
        patch,
        "router",
        lambda op: lambda x, weight, bias, **options: op(x, weight, 0 * bias, **options),
    )


@PITFALLS.row(21, bf16_router, bias_in_the_weights, bias_missing)
def check_router_is_float32_and_its_bias_only_chooses() -> None:
    ops = plan("cpu").ops
    # Logits 8, 8 + 1/32, ...: pairs of them are one number in bf16.
    fine = array(8 + np.arange(8)[:, None] / 32)
    for k in (1, 3, 5):
        experts, _ = ops.router(mx.ones((1, 1)), fine, mx.zeros(8), k=k, scaling=1.0)
        assert sorted(np.array(experts)[0].tolist()) == list(range(8 - k, 8))
    logits = array([[-3.0], [-1], [0], [1], [2], [5], [30], [-40]])
    bias = array([2.0, 0, 0, 0, 0, 0, -5, 0])
    experts, weights = ops.router(mx.ones((1, 1)), logits, bias, k=3, scaling=1.5)
    found = dict(zip(np.array(experts)[0].tolist(), weights[0].tolist(), strict=True))
    assert sorted(found) == [0, 4, 5]
    expected = {5: 0.857001, 0: 0.084424, 4: 0.558575}
    for expert, weight in expected.items():
        np.testing.assert_allclose(found[expert], weight, atol=1e-6)


# --- 22: normalised once, scaled once ------------------------------------------------------------


def scaled_twice(patch: pytest.MonkeyPatch) -> None:
    def make(normalised):
        return lambda scores, experts, scaling: scaling * normalised(scores, experts, scaling)

    replace_in_both_routers(patch, "normalised_weights", make)


def scaled_again_in_the_experts(patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch, Experts, "__call__", lambda call: lambda self, x, experts, weights, shared: call(
            self, x, experts, 1.5 * weights, shared
        ),
    )  # fmt: skip


def normalised_again_in_the_experts(patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch, Experts, "__call__", lambda call: lambda self, x, experts, weights, shared: call(
            self, x, experts, weights / weights.sum(axis=-1, keepdims=True), shared
        ),
    )  # fmt: skip


def not_normalised(patch: pytest.MonkeyPatch) -> None:
    def make(normalised):
        def wrong(scores, experts, scaling):
            return scaling * mx.take_along_axis(scores, experts, axis=-1)

        return wrong

    replace_in_both_routers(patch, "normalised_weights", make)


@PITFALLS.row(
    22, scaled_twice, scaled_again_in_the_experts, normalised_again_in_the_experts, not_normalised
)
def check_weights_are_normalised_and_scaled_once() -> None:
    for scaling in (1.5, 2.5):
        for hashed in (False, True):
            _, _, ours = one_layer(hashed, routed_scaling_factor=scaling)
            _, weights = ours.layers[0].mlp.gate(array(random(9, 48)), mx.array(small.TOKENS[:9]))
            np.testing.assert_allclose(np.array(weights).sum(axis=-1), scaling, rtol=1e-6)
    for rows in (2, 25):  # gathered, sorted by expert
        assert_moe_equals_a_sum_over_experts(False, rows)


# --- 23: hash layers -----------------------------------------------------------------------------


def hash_table_skipped(patch: pytest.MonkeyPatch) -> None:
    def wrong(self, x, tokens):
        k = self.tid2eid.shape[-1]
        bias = mx.zeros(len(self.weight))
        return router.router(x, self.weight, bias, k=k, scaling=self._scaling)

    patch.setattr(HashRouter, "__call__", wrong)


def _other_tokens(name: str, change) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        wrap(
            patch, MoE, "parts", lambda call: lambda self, x, tokens: call(
                self, x, change(tokens)
            ),
        )  # fmt: skip

    plant.__name__ = name
    return plant


@PITFALLS.row(
    23,
    hash_table_skipped,
    _other_tokens("ids_flattened_column_first", lambda ids: ids.T.reshape(ids.shape)),
    _other_tokens("ids_of_the_first_row_for_all", lambda ids: mx.broadcast_to(ids[:1], ids.shape)),
    _other_tokens("ids_missing", lambda ids: 0 * ids),
)
def check_hash_layers_route_every_row_by_its_own_ids() -> None:
    assert_moe_equals_a_sum_over_experts(True, 7)
    _, _, ours = one_layer(hashed=True)
    rows = small.TOKENS[:10].reshape(2, 5)
    batch = small.logits(ours, rows)
    for row, found in zip(rows, batch, strict=True):
        np.testing.assert_allclose(found, small.logits(ours, row), atol=1e-4)


# --- 24: the clamp -------------------------------------------------------------------------------


def _wrong_clamp(name: str, gate_range, up_range) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def activate(gate_up, limit):
            gate, up = mx.split(gate_up, 2, axis=-1)
            gate = mx.clip(gate, gate_range[0] * limit, gate_range[1] * limit)
            up = mx.clip(up, up_range[0] * limit, up_range[1] * limit)
            return gate * mx.sigmoid(gate) * up

        def wrong(gate_up, weights=None, shared=None, *, limit):
            activated = activate(gate_up, limit)
            if weights is not None:
                activated = activated * weights[:, None]
            return activated if shared is None else (activated, activate(shared, limit))

        replace_op(patch, "swiglu", lambda op: wrong)

    plant.__name__ = name
    return plant


def shared_expert_not_clamped(patch: pytest.MonkeyPatch) -> None:
    def make(op):
        def wrong(gate_up, weights=None, shared=None, *, limit):
            activated = op(gate_up, weights, limit=limit)
            return activated if shared is None else (activated, op(shared, limit=0.0))

        return wrong

    replace_op(patch, "swiglu", make)


FREE = 1e9


@PITFALLS.row(
    24,
    _wrong_clamp("gate_clamped_below", (-0.1, 1), (-1, 1)),
    _wrong_clamp("gate_not_clamped", (-FREE, FREE), (-1, 1)),
    _wrong_clamp("up_clamped_above_only", (-FREE, 1), (-FREE, 1)),
    _wrong_clamp("up_not_clamped", (-FREE, 1), (-FREE, FREE)),
    shared_expert_not_clamped,
)
def check_gate_is_clamped_above_and_up_on_both_sides() -> None:
    ops = plan("cpu").ops
    silu10 = 10 / (1 + np.exp(-10))
    by_hand = {
        (50, 50): 10 * silu10,
        (50, -50): -10 * silu10,
        (-5, 3): -5 / (1 + np.exp(5)) * 3,
        (-50, 50): 0.0,
        (12, 3): 29.998638,
        (3, -15): -28.577224,
    }
    for pair, expected in by_hand.items():
        found = ops.swiglu(array([pair]), limit=10.0).item()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    _, tensors, ours = one_layer()
    x = 30 * random(3, 48)
    w1, w2, w3 = (
        tensors[f"layers.0.ffn.shared_experts.{name}.weight"] for name in ("w1", "w2", "w3")
    )
    gate, up = x @ w1.T, x @ w3.T
    assert np.abs(up).max() > 10 and gate.max() > 10
    gate, up = np.minimum(gate, 10), np.clip(up, -10, 10)
    expected = (gate / (1 + np.exp(-gate)) * up) @ w2.T
    shared, _ = ours.layers[0].mlp.parts(array(x), mx.array([5, 6, 7]))
    found = np.array(shared)
    np.testing.assert_allclose(found, expected, atol=1e-3)


# --- 25: gate and up -----------------------------------------------------------------------------


def gate_and_up_swapped(patch: pytest.MonkeyPatch) -> None:
    def make(op):
        def wrong(gate_up, *rest, **options):
            gate, up = mx.split(gate_up, 2, axis=-1)
            return op(mx.concatenate([up, gate], axis=-1), *rest, **options)

        return wrong

    replace_op(patch, "swiglu", make)


def shared_gate_and_up_swapped(patch: pytest.MonkeyPatch) -> None:
    def make(call):
        def wrong(self, x):
            gate, up = mx.split(call(self, x), 2, axis=-1)
            return mx.concatenate([up, gate], axis=-1)

        return wrong

    wrap(patch, SharedExpert, "gate_up", make)


@PITFALLS.row(25, gate_and_up_swapped, shared_gate_and_up_swapped)
def check_the_gate_comes_first() -> None:
    for rows in (2, 25):
        assert_moe_equals_a_sum_over_experts(False, rows)


# --- 26: sqrt(softplus) over its whole range -----------------------------------------------------


def softplus_spelled_out(patch: pytest.MonkeyPatch) -> None:
    replace_in_both_routers(
        patch,
        "expert_scores",
        lambda scores: lambda x, weight: mx.sqrt(mx.log(1 + mx.exp(x @ weight.T))),
    )


def softplus_in_half_precision(patch: pytest.MonkeyPatch) -> None:
    def make(scores):
        def wrong(x, weight):
            logits = (x @ weight.T).astype(mx.float16)
            return mx.sqrt(mx.logaddexp(logits, mx.array(0.0, mx.float16))).astype(mx.float32)

        return wrong

    replace_in_both_routers(patch, "expert_scores", make)


@PITFALLS.row(26, softplus_spelled_out, softplus_in_half_precision)
def check_scores_of_large_logits() -> None:
    logits = np.array([-60.0, -20, -5, -0.001, 0, 3, 20, 60, 100, 1000])
    expected = np.sqrt(np.logaddexp(0, logits))
    found = np.array(router.expert_scores(mx.ones((1, 1)), array(logits[:, None])))[0]
    np.testing.assert_allclose(found, expected, rtol=3e-6)
    weights = plan("cpu").ops.hash_router(
        mx.ones((1, 1)),
        array(logits[:, None]),
        mx.arange(10)[None],
        mx.zeros(1, mx.int32),
        scaling=1,
    )[1]
    np.testing.assert_allclose(np.array(weights)[0], expected / expected.sum(), rtol=1e-5)


def test_route_by_loops_equals_the_oracle() -> None:
    """The loops above and the oracle are two accounts of one router."""
    logits, bias = random(20, 8), random(8, seed=1)
    experts, weights, _ = v4.route(logits, bias, 3, 1.5)
    for row, chosen, found in zip(logits, experts, weights, strict=True):
        scores = np.sqrt(np.log1p(np.exp(row)))
        best = np.argsort(-(scores + bias))[:3]
        assert chosen.tolist() == best.tolist()
        np.testing.assert_allclose(found, 1.5 * scores[best] / scores[best].sum(), rtol=1e-12)


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
