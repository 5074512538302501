"""Known pitfalls of the residual streams: rows 1 and 2."""

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.hc_pre.reference as hc_pre
from metal_kernels.registry import plan
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, replace_op
from tests.oracle import v4_numpy as v4

PITFALLS = Pitfalls()


def array(x: np.ndarray) -> mx.array:
    return mx.array(np.asarray(x, np.float32))


def comb_not_transposed(patch: pytest.MonkeyPatch) -> None:
    def make(op):
        return lambda y, streams, post, comb, **options: op(
            y, streams, post, comb.swapaxes(-1, -2), **options
        )

    replace_op(patch, "hc_post", make)


@PITFALLS.row(1, comb_not_transposed)
def check_new_streams_equal_three_loops() -> None:
    random = np.random.default_rng(0)
    y, streams = random.standard_normal((2, 3)), random.standard_normal((2, 4, 3))
    post, comb = random.standard_normal((2, 4)), random.standard_normal((2, 4, 4))
    expected = post[:, :, None] * y[:, None]
    for s in range(2):
        for k in range(4):
            for j in range(4):
                expected[s, k] += comb[s, j, k] * streams[s, j]
    found = plan("cpu").ops.hc_post(
        array(y[None]), array(streams[None]), array(post[None]), array(comb[None]), official=False
    )
    np.testing.assert_allclose(np.array(found)[0], expected, atol=1e-5)


def wrong_split(
    *,
    softmax_eps: float = 1.0,
    pre_eps: float = 1.0,
    post_eps: float = 0.0,
    extra: int = 0,
    rows_last: bool = False,
):
    """`split_mix` written again with knobs for its known mistakes; as it stands it is right."""

    def split_mix(mix, scale, base, *, streams, iters, eps):
        N, base = streams, base[:, None]
        pre = mx.sigmoid(mix[:N] * scale[0] + base[:N]) + eps * pre_eps
        post = 2 * mx.sigmoid(mix[N : 2 * N] * scale[1] + base[N : 2 * N]) + eps * post_eps
        comb = (mix[2 * N :] * scale[2] + base[2 * N :]).reshape(N, N, -1)
        first, second = (0, 1) if rows_last else (1, 0)
        comb = mx.softmax(comb, axis=first) + eps * softmax_eps
        comb = comb / (comb.sum(axis=second, keepdims=True) + eps)
        for _ in range(iters - 1 + extra):
            comb = comb / (comb.sum(axis=first, keepdims=True) + eps)
            comb = comb / (comb.sum(axis=second, keepdims=True) + eps)
        return pre, post, comb

    return split_mix


def split_mistake(name: str, **knobs: float) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(hc_pre, "split_mix", wrong_split(**knobs))

    plant.__name__ = name
    return plant


SPLIT_MISTAKES = (
    split_mistake("no_eps_after_softmax", softmax_eps=0.0),
    split_mistake("no_eps_on_pre", pre_eps=0.0),
    split_mistake("eps_on_post", post_eps=1.0),
    split_mistake("one_iteration_more", extra=1),
    split_mistake("one_iteration_less", extra=-1),
    split_mistake("row_step_last", rows_last=True),
)


@PITFALLS.row(2, *SPLIT_MISTAKES)
def check_sinkhorn_steps_and_eps() -> None:
    """A large eps and few iterations, so that each of them is visible."""
    random = np.random.default_rng(2)
    streams, fn = random.standard_normal((5, 4, 16)), random.standard_normal((24, 64)) / 8
    base, scale = random.standard_normal(24), np.array([0.5, 0.7, 0.9])
    pre, post, comb = v4.sinkhorn_split(
        v4._normalised_projection(streams, fn, 1e-6), scale, base, iterations=3, eps=0.05
    )
    normed, found_post, found_comb = plan("cpu").ops.hc_pre(
        array(streams[None]), array(fn), array(base), array(scale), mx.ones(16),
        iters=3, hc_eps=0.05, norm_eps=1e-6, official=False,
    )  # fmt: skip
    collapsed = v4.rms_norm(np.einsum("sn,snd->sd", pre, streams), 1.0, 1e-6)
    np.testing.assert_allclose(np.array(normed)[0], collapsed, atol=2e-6)
    np.testing.assert_allclose(np.array(found_post)[0], post, atol=2e-6)
    np.testing.assert_allclose(np.array(found_comb)[0], comb, atol=2e-6)


def test_the_split_with_knobs_is_right_as_it_stands() -> None:
    def right(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(hc_pre, "split_mix", wrong_split())

    with pytest.MonkeyPatch.context() as patch:
        right(patch)
        check_sinkhorn_steps_and_eps()


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
