"""HyperConnection and HyperHead against the oracle, for any number of streams."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model.hyper_connections import HyperConnection, HyperHead
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.release.spellings import config_of
from metal_kernels.registry import plan
from tests.model import small
from tests.oracle import v4_numpy as v4

D = small.CONFIG["hidden_size"]
EPS = small.CONFIG["rms_norm_eps"]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).astype(np.float64)


def array(x: np.ndarray) -> mx.array:
    return mx.array(x.astype(np.float32))


def connection(N: int, numerics: Numerics, iters: int = 20):
    """Our module and the oracle's split of given streams [S, N, D]."""
    settings = small.config(hc_mult=N, hc_sinkhorn_iters=iters)
    ours = HyperConnection(config_of(settings), numerics, plan("cpu").ops)
    fn, base, scale = random((2 + N) * N, N * D) / 5, random((2 + N) * N, seed=1), random(3, seed=2)
    ours.fn, ours.base, ours.scale = array(fn), array(base), array(scale)

    def split(streams: np.ndarray):
        mixes = v4._normalised_projection(streams, fn, EPS)
        return v4.sinkhorn_split(mixes, scale, base, streams=N, iterations=iters)

    return ours, split


@pytest.mark.parametrize("N", [1, 2, 4])
@pytest.mark.parametrize("S", [1, 7])
def test_collapse_equals_the_oracle(N: int, S: int) -> None:
    ours, split = connection(N, Numerics.PLAIN)
    streams, weight = random(2, S, N, D, seed=3), 1 + 0.1 * random(D, seed=4)
    normed, post, comb = ours.collapse(array(streams), array(weight))
    assert normed.shape == (2, S, D) and post.shape == (2, S, N) and comb.shape == (2, S, N, N)
    for row in range(2):
        pre, post_, comb_ = split(streams[row])
        expected = v4.rms_norm(np.einsum("sn,snd->sd", pre, streams[row]), weight, EPS)
        np.testing.assert_allclose(np.array(normed)[row], expected, atol=2e-5)
        np.testing.assert_allclose(np.array(post)[row], post_, atol=2e-5)
        np.testing.assert_allclose(np.array(comb)[row], comb_, atol=2e-5)


@pytest.mark.parametrize("iters", [1, 2, 20])
def test_the_number_of_sinkhorn_steps_is_the_configs(iters: int) -> None:
    ours, split = connection(4, Numerics.PLAIN, iters)
    streams = random(1, 3, 4, D, seed=3)
    _, _, comb = ours.collapse(array(streams), mx.ones(D))
    np.testing.assert_allclose(np.array(comb)[0], split(streams[0])[2], atol=2e-5)


@pytest.mark.parametrize("numerics", list(Numerics))
def test_expand_equals_the_oracle(numerics: Numerics) -> None:
    ours, _ = connection(4, numerics)
    y, streams = random(1, 5, D), random(1, 5, 4, D, seed=1)
    post, comb = random(1, 5, 4, seed=2), random(1, 5, 4, 4, seed=3)
    found = np.array(ours.expand(*map(array, (y, streams, post, comb))), np.float64)
    expected = v4.hyper_post(y[0], streams[0], post[0], comb[0])[None]
    if numerics is Numerics.PLAIN:
        np.testing.assert_allclose(found, expected, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, v4.round_bf16(found))
        np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-5)


def test_official_rounds_the_collapsed_input_before_its_norm() -> None:
    (official, split), (plain, _) = (connection(4, n) for n in (Numerics.OFFICIAL, Numerics.PLAIN))
    streams = random(1, 64, 4, D, seed=3)
    pre, _, _ = split(streams[0])
    u = v4.round_bf16(np.einsum("sn,snd->sd", pre, streams[0]))
    rounded, post, comb = official.collapse(array(streams), mx.ones(D))
    # A float32 sum, off by 3e-7 of itself, is rounded the other way once in ten thousand values,
    # and its row of 48 then has another norm: one row in two hundred. Without the rounding, all.
    differs = (np.abs(np.array(rounded)[0] - v4.rms_norm(u, 1.0, EPS)) > 1e-4).any(axis=1)
    assert differs.mean() < 0.1
    exact, post_plain, comb_plain = plain.collapse(array(streams), mx.ones(D))
    assert mx.array_equal(post, post_plain) and mx.array_equal(comb, comb_plain)
    assert 1e-4 < mx.abs(rounded - exact).max().item() < 2**-6


@pytest.mark.parametrize("N", [1, 4])
def test_head_equals_the_oracle(N: int) -> None:
    settings = small.config(hc_mult=N, hc_eps=0.05)
    head = HyperHead(config_of(settings), Numerics.PLAIN, plan("cpu").ops)
    fn, base, scale = random(N, N * D), random(N, seed=1), random(1, seed=2)
    head.hc_fn, head.hc_base, head.hc_scale = array(fn), array(base), array(scale)
    streams, weight = random(1, 5, N, D, seed=3), 1 + 0.1 * random(D, seed=4)
    mixes = v4._normalised_projection(streams[0], fn, EPS) * scale + base
    weights = 1 / (1 + np.exp(-mixes)) + settings["hc_eps"]
    expected = v4.rms_norm(np.einsum("sn,snd->sd", weights, streams[0]), weight, EPS)
    found = np.array(head(array(streams), array(weight)))[0]
    np.testing.assert_allclose(found, expected, atol=2e-5)
