"""Known pitfalls of attention: rows 13, 20, 29 to 31 and 38."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.index_topk.reference as index_topk
import metal_kernels.q_prepare.reference as q_prepare
import metal_kernels.sparse_attention.reference as sparse_attention
from dsv4_mlx.model import matmul
from dsv4_mlx.model.attention import Attention
from dsv4_mlx.model.layers import GroupedLinear
from metal_kernels.registry import plan
from tests.model import small
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, replace_op, wrap

PITFALLS = Pitfalls()


def array(x: np.ndarray) -> mx.array:
    return mx.array(np.asarray(x, np.float32))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --- 13: exactly W tokens ------------------------------------------------------------------------


def _other_window(name: str, change) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(op):
            def wrong(*arrays, sliding_window, **options):
                return op(*arrays, sliding_window=change(sliding_window), **options)

            return wrong

        replace_op(patch, "sparse_attention", make)

    plant.__name__ = name
    return plant


@PITFALLS.row(
    13,
    _other_window("window_one_smaller", lambda W: W - 1),
    _other_window("window_one_larger", lambda W: W + 1),
    _other_window("window_not_enforced", lambda W: 10**6),
)
def check_a_token_reaches_exactly_the_window() -> None:
    settings = small.one_layer(0, sliding_window=9)
    ours = small.model(settings, small.weights(settings))
    before = small.TOKENS[:40]
    after = before.copy()
    after[5] += 1
    for run in (
        lambda ids: small.logits(ours, ids),
        lambda ids: small.in_chunks(ours, ids, [7, 1, 20]),
    ):
        difference = np.abs(run(before) - run(after)).max(axis=1)
        assert np.flatnonzero(difference > 1e-5).tolist() == list(range(5, 14))


# --- 20: sinks enlarge the denominator and nothing else ------------------------------------------


def _wrong_sinks(name: str, change) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(attend):
            def wrong(q, keys, visible, sinks, **options):
                return attend(q, keys, visible, change(sinks, q.shape[-1]), **options)

            return wrong

        wrap(patch, sparse_attention, "attend", make)

    plant.__name__ = name
    return plant


def _attend_again(name: str, *, value: bool = False, subtract_twice: bool = False) -> Plant:
    """Attention written again, with a sink that has a value or is shifted twice."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def wrong(q, keys, visible, sinks, *, official):
            scores = (q * q.shape[-1] ** -0.5) @ keys[:, None].swapaxes(-1, -2)
            scores = mx.where(visible[..., None, :], scores, -float("inf"))
            top = scores.max(axis=-1, keepdims=True)
            weights = mx.exp(scores - top)
            sink = mx.exp(sinks[:, None] - top * (2 if subtract_twice else 1))
            output = weights @ keys[:, None] + (sink * keys[:, :1, None] if value else 0)
            return output / (weights.sum(axis=-1, keepdims=True) + sink)

        patch.setattr(sparse_attention, "attend", wrong)

    plant.__name__ = name
    return plant


def sink_output(sink: float, logits: tuple[float, float] = (1, 2)) -> float:
    """One query over two keys with values 3 and 5."""
    window = [[3.0, logits[0], 0, 0], [5.0, logits[1], 0, 0]]
    output = plan("cpu").ops.sparse_attention(
        array([[[[0.0, 2, 0, 0]]]]), array([window]), array([sink]), mx.ones((1, 1)),
        mx.zeros((1, 1)), first_position=1, origin=0, ratio=0, sliding_window=8, official=False,
    )  # fmt: skip
    return output[0, 0, 0, 0].item()


@PITFALLS.row(
    20,
    _wrong_sinks("no_sinks", lambda sinks, K: sinks - float("inf")),
    _wrong_sinks("sinks_in_bf16", lambda sinks, K: sinks.astype(mx.bfloat16).astype(mx.float32)),
    _wrong_sinks("sinks_scaled_like_scores", lambda sinks, K: sinks * K**-0.5),
    _attend_again("sink_with_a_value", value=True),
    _attend_again("maximum_subtracted_twice", subtract_twice=True),
)
def check_sinks_by_hand() -> None:
    np.testing.assert_allclose(sink_output(0.5), 3.836330, atol=3e-6)
    np.testing.assert_allclose(sink_output(-np.inf), 4.462117, atol=3e-6)
    assert abs(sink_output(40)) < 1e-6
    expected = (3 * np.exp(9) + 5 * np.exp(10)) / (np.exp(9) + np.exp(10) + np.exp(9.98))
    np.testing.assert_allclose(sink_output(9.98, (9, 10)), expected, rtol=1e-5)


# --- 29, 30: consecutive heads, groups cut from the packed rows -----------------------------------


def groups_cut_across_packed_rows(patch: pytest.MonkeyPatch) -> None:
    def make(grouped):
        def wrong(x, matrix, ops):
            rows = matrix.weight.shape[0]
            order = mx.arange(rows).reshape(-1, x.shape[-2]).T.reshape(-1)
            return grouped(x, matrix[order], ops)

        return wrong

    wrap(patch, matmul, "grouped", make)


def scales_of_the_first_group_for_all(patch: pytest.MonkeyPatch) -> None:
    def make(grouped):
        def wrong(x, matrix, ops):
            first = matrix.scales[: len(matrix.scales) // x.shape[-2]]
            scales = mx.concatenate([first] * x.shape[-2])
            return grouped(x, replace(matrix, scales=scales), ops)

        return wrong

    wrap(patch, matmul, "grouped", make)


@PITFALLS.row(29, groups_cut_across_packed_rows, scales_of_the_first_group_for_all)
def check_packed_groups_equal_dense_ones() -> None:
    layer = GroupedLinear(4, 64, 24)
    layer.weight = array(random(96, 64) * np.repeat([1, 8, 0.1, 3], 24)[:, None])
    packed = layer.to_quantized(group_size=32, bits=8, mode="mxfp8")
    values = np.array(mx.dequantize(packed.weight, packed.scales, mode="mxfp8", dtype=mx.float32))
    for rows in (1, 33):  # packed product, unpacked product
        x = random(rows, 4, 64, seed=rows)
        expected = np.einsum("mgi,goi->mgo", x, values.reshape(4, 24, 64))
        found = np.array(packed(array(x[None]))).reshape(rows, 4, 24)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def heads_grouped_by_remainder(patch: pytest.MonkeyPatch) -> None:
    def make(output):
        def wrong(self, o):
            B, S, H, K = o.shape
            o = o.reshape(B, S, H // self._groups, self._groups, K).swapaxes(2, 3)
            return output(self, o.reshape(B, S, H, K))

        return wrong

    wrap(patch, Attention, "_output", make)


@PITFALLS.row(30, heads_grouped_by_remainder)
def check_neighbouring_heads_form_a_group() -> None:
    """One head alone at a time: its group's matrix and no other answers."""
    settings = small.one_layer(0)
    tensors = small.weights(settings)
    attention = small.model(settings, tensors).layers[0].self_attn
    heads, dim, groups = 4, settings["head_dim"], settings["o_groups"]
    wo_a = tensors["layers.0.attn.wo_a.weight"].reshape(groups, -1, heads // groups, dim)
    wo_b = tensors["layers.0.attn.wo_b.weight"].reshape(48, groups, -1)
    for head in range(heads):
        o = np.zeros((1, 1, heads, dim))
        o[0, 0, head] = random(dim, seed=head)
        group, place = divmod(head, heads // groups)
        expected = wo_b[:, group] @ (wo_a[group, :, place] @ o[0, 0, head])
        np.testing.assert_allclose(
            np.array(attention._output(array(o))).ravel(), expected, atol=1e-4
        )


# --- 31: every query head has RMS one ------------------------------------------------------------


def _wrong_heads(name: str, norm) -> Plant:
    """`norm(heads [B, S, H, K], rotary dims) -> [B, S, H, K]` in the place of the head norm."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def wrong(projected, cos, sin, *, heads, width, **_):
            q = norm(projected.reshape(*projected.shape[:2], heads, width), 2 * cos.shape[-1])
            return q_prepare.rotate(q, cos[:, None], sin[:, None]), None

        replace_op(patch, "q_prepare", lambda op: wrong)

    plant.__name__ = name
    return plant


def _norm_of_the_last(q: mx.array, dims: int) -> mx.array:
    tail = mx.fast.rms_norm(q[..., -dims:], None, 1e-6)
    return mx.concatenate([q[..., :-dims], tail], axis=-1)


def _norm_of_all(q: mx.array, dims: int) -> mx.array:
    return mx.fast.rms_norm(q.reshape(*q.shape[:2], -1), None, 1e-6).reshape(q.shape)


@PITFALLS.row(
    31,
    _wrong_heads("no_head_norm", lambda q, dims: q),
    _wrong_heads("head_norm_on_rotated_dims_only", _norm_of_the_last),
    _wrong_heads("head_norm_over_all_heads", _norm_of_all),
    _wrong_heads("head_norm_with_a_larger_eps", lambda q, dims: mx.fast.rms_norm(q, None, 1e-3)),
)
def check_query_heads_have_rms_one() -> None:
    q = random(1, 3, 5, 128) * np.geomspace(0.05, 100, 5)[:, None]
    angles = random(3, 32, seed=1)
    prepared, _ = plan("cpu").ops.q_prepare(
        array(q.reshape(1, 3, -1)), array(np.cos(angles)), array(np.sin(angles)), heads=5,
        width=128, index_heads=0, index_width=0, eps=1e-6, official=False,
    )  # fmt: skip
    found = np.array(prepared)
    np.testing.assert_allclose(np.sqrt(np.mean(found**2, axis=-1)), 1, rtol=1e-3)
    nope = q[..., :64] / np.sqrt(np.mean(q**2, axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found[..., :64], nope, rtol=1e-4)


# --- 38: memory of a long chunk ------------------------------------------------------------------


def whole_chunk_of_scores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(index_topk, "_TILE_ELEMENTS", 1 << 40)


def whole_chunk_of_gathered_entries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sparse_attention, "_TILE_ELEMENTS", 1 << 40)
    patch.setattr(sparse_attention, "_SHORTEST_WINDOW_TILE", 1 << 40)


def peak_bytes(run) -> int:
    """Bytes held at once while `run` computes, beyond what was there."""
    mx.synchronize()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(run())
    return mx.get_peak_memory() - before


@PITFALLS.row(38, whole_chunk_of_scores)
def check_index_scores_are_tiled() -> None:
    """The whole chunk's scores would be 300 MB, for every head."""
    S, T = 768, 1536
    q, weights, keys = mx.ones((1, S, 64, 64)), mx.ones((1, S, 64)), mx.ones((1, T, 64))
    mx.eval(q, weights, keys)
    select = plan("cpu").ops.index_topk
    peak = peak_bytes(
        lambda: select(q, weights, keys, k=256, first_position=4 * T, ratio=4, scale=1.0)
    )
    assert peak < 150e6


@PITFALLS.row(38, whole_chunk_of_gathered_entries)
def check_gathered_entries_are_tiled() -> None:
    """The whole chunk's keys would be 300 MB, and attention needs several arrays of that size."""
    S, T, k = 1536, 1536, 256
    q, window, entries = mx.ones((1, S, 2, 128)), mx.ones((1, S, 128)), mx.ones((1, T, 128))
    chosen = mx.broadcast_to(mx.arange(k, dtype=mx.int32), (1, S, k))
    sinks, cos, sin = mx.zeros(2), mx.ones((S, 32)), mx.zeros((S, 32))
    mx.eval(q, window, entries, chosen, sinks, cos, sin)
    attend = plan("cpu").ops.sparse_attention
    peak = peak_bytes(
        lambda: attend(
            q, window, sinks, cos, sin, entries, chosen,
            first_position=4 * T, origin=4 * T, ratio=4, sliding_window=128, official=False,
        )
    )  # fmt: skip
    assert peak < 250e6


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
