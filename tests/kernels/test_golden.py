"""The published golden vectors, computed by our own references."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.model.rope import compressed_rope
from dsv4_mlx.release.config import FLASH
from metal_kernels.registry import plan
from metal_kernels.shared.rotary import rotate

OPS = plan("cpu").ops
PRE = [0.6273207, 0.6244977, 0.5072368, 0.3828671]
POST = [0.6474912, 0.9165820, 1.2710102, 1.3661506]
COMB = [
    [0.3609470, 0.2168840, 0.1816574, 0.2405106],
    [0.1543917, 0.3982038, 0.3401988, 0.1072048],
    [0.0519538, 0.1030988, 0.3192365, 0.5257099],
    [0.4327065, 0.2818124, 0.1589064, 0.1265738],
]


def array(*values: object) -> mx.array:
    return mx.array(np.array(*values), mx.float32)


def golden_hc_pre(width: int = 256):
    """hc_pre on streams whose normalised mix is exactly sin(i + 1): one value in the first place.

    x / rms(x) of such a token is sqrt(4 D) there and 0 elsewhere, so that column of fn decides.
    """
    i = np.arange(24)
    fn = np.zeros((24, 4 * width))
    fn[:, 0] = np.sin(i + 1) / np.sqrt(4 * width)
    streams = np.zeros((1, 1, 4, width))
    streams[0, 0, 0, 0] = 1.0
    return OPS.hc_pre(
        array(streams), array(fn), array(0.1 * np.cos(i)), array([0.5, 0.7, 0.9]), mx.ones(width),
        iters=20, hc_eps=1e-6, norm_eps=0.0, official=False,
    )  # fmt: skip


def test_hyper_connection_split() -> None:
    _, post, comb = golden_hc_pre()
    np.testing.assert_allclose(np.array(post)[0, 0], POST, atol=4e-7)
    np.testing.assert_allclose(np.array(comb)[0, 0], COMB, atol=4e-7)
    np.testing.assert_allclose(np.array(comb)[0, 0].sum(axis=0), 0.999999, atol=4e-7)
    np.testing.assert_allclose(np.array(comb)[0, 0].sum(axis=1), 0.999999, atol=1e-6)


def test_collapse_weighs_the_streams_by_pre() -> None:
    """Norm weight and eps are chosen so that the RMSNorm changes nothing: eps is huge."""
    i, D = np.arange(24), 64
    streams = np.random.default_rng(0).standard_normal((1, 1, 4, D))
    eps = 1e12  # x / sqrt(mean(x^2) + eps) is x / 1e6, and the mix is all zero
    base = 0.1 * np.cos(i) + np.sin(i + 1) * np.repeat([0.5, 0.7, 0.9], [4, 4, 16])
    normed, _, comb = OPS.hc_pre(
        array(streams), mx.zeros((24, 4 * D)), array(base), mx.ones(3), mx.full(D, 1e6),
        iters=20, hc_eps=1e-6, norm_eps=eps, official=False,
    )  # fmt: skip
    np.testing.assert_allclose(np.array(comb)[0, 0], COMB, atol=4e-7)
    expected = np.einsum("n,nd->d", PRE, streams[0, 0])
    np.testing.assert_allclose(np.array(normed)[0, 0], expected, atol=2e-6)


def test_streams_mix_over_the_first_index() -> None:
    streams = array([1.0, 10, 100, 1000]).reshape(1, 1, 4, 1)
    mixed = OPS.hc_post(
        mx.zeros((1, 1, 1)), streams, array([[POST]]), array([[COMB]]), official=False
    )
    expected = [439.80672, 296.32122, 194.41365, 180.45730]
    np.testing.assert_allclose(np.array(mixed).ravel(), expected, rtol=3e-7)


def pooled(values: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Entries of one channel, read out past the norm: a second channel holds the constant 1.

    After RMS over (e, 1) both are divided by the same number, so their ratio is e.
    """
    latents = np.stack([values, np.ones_like(values)], axis=2).reshape(len(values), -1)
    rows = np.concatenate([latents, np.repeat(scores, 2, axis=1)], axis=1)[None]
    count = len(values) // 4
    entries = OPS.compress(
        array(rows), mx.zeros((4, 4)), mx.ones(2), mx.ones((count, 1)), mx.zeros((count, 1)),
        origin=0, first_window=0, windows=count, ratio=4, kv_column=0, gate_column=4, eps=0.0,
        rounding="none", storage="float32",
    )  # fmt: skip
    found = np.array(entries)[0]
    return found[:, 0] / found[:, 1]


def test_csa_pooling_with_and_without_overlap() -> None:
    t = np.arange(12)
    values = np.stack([t + 1.0, -(t + 1.0)], axis=1)
    scores = np.stack([np.sin(t) + 0.1 * (t % 4), np.cos(t) + 0.2 * (t % 4)], axis=1)
    found = pooled(values, scores)
    np.testing.assert_allclose(found, [-1.941294, -2.721128, -1.158891], atol=3e-6)
    scores[:, 0] = -np.inf
    alone = pooled(values, scores)
    np.testing.assert_allclose(alone, [-1.941294, -7.122101, -10.898168], atol=6e-6)


def test_router() -> None:
    logits = np.array([-3.0, -1, 0, 1, 2, 5, 30, -40])
    scores = [0.2204254, 0.5596979, 0.8325546, 1.1459763, 1.4583991, 2.2375691, 5.4772256, 0]
    x, weight = mx.ones((1, 1)), array(logits[:, None])
    bias = array([2.0, 0, 0, 0, 0, 0, -5, 0])
    experts, weights = OPS.router(x, weight, bias, k=3, scaling=1.5)
    assert experts.tolist() == [[0, 4, 5]]
    np.testing.assert_allclose(np.array(weights)[0], [0.084424, 0.558575, 0.857001], atol=6e-7)
    table = mx.arange(8, dtype=mx.int32)[None]
    _, every = OPS.hash_router(x, weight, table, mx.zeros(1, mx.int32), scaling=sum(scores))
    np.testing.assert_allclose(np.array(every)[0], scores, atol=2e-6)


@pytest.mark.parametrize(
    ("gate", "up", "expected"), [(12, 3, 29.998638), (-12, 20, -0.000737), (3, -15, -28.577224)]
)
def test_clamped_swiglu(gate: float, up: float, expected: float) -> None:
    found = OPS.swiglu(array([[float(gate), float(up)]]), limit=10.0).item()
    assert found == pytest.approx(expected, rel=2e-7, abs=2e-6)


def sink_output(sink: float) -> float:
    """Logits 1 and 2, values 3 and 5; scores are divided by sqrt(4), so the query is doubled."""
    window = array([[[3.0, 1, 0, 0], [5.0, 2, 0, 0]]])
    output = OPS.sparse_attention(
        array([[[[0.0, 2, 0, 0]]]]), window, array([sink]), mx.ones((1, 1)), mx.zeros((1, 1)),
        first_position=1, origin=0, ratio=0, sliding_window=128, official=False,
    )  # fmt: skip
    return output[0, 0, 0, 0].item()


def test_sink() -> None:
    assert sink_output(0.5) == pytest.approx(3.836330, abs=2e-6)
    assert sink_output(-float("inf")) == pytest.approx(4.462117, abs=2e-6)


def test_rope_at_a_million() -> None:
    cos, sin = (np.array(x)[0] for x in compressed_rope(FLASH).tables(1_000_003, 1))
    np.testing.assert_allclose(cos[5], np.cos(153765.015625), atol=1e-7)
    np.testing.assert_allclose(cos[5], -0.972092, atol=6e-7)
    np.testing.assert_allclose(sin[5], np.sin(153765.015625), atol=1e-7)
    np.testing.assert_allclose(cos[[16, 31]], [-0.8559, 0.842949], atol=5e-5)
    turned = np.array(rotate(mx.array([[1.0, 0.0] * 32]), mx.array(cos), mx.array(sin)))
    np.testing.assert_allclose(turned[0, 10:12], [cos[5], sin[5]], atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "entry", "first"), [(4, 0, 3), (4, 1, 7), (128, 0, 127), (128, 1, 255)]
)
def test_first_position_that_sees_an_entry(ratio: int, entry: int, first: int) -> None:
    """Selected by the indexer, and attended where there is no indexer."""
    positions, T = 2 * ratio + 1, 2
    keys, q = mx.ones((1, T, 64)), mx.ones((1, positions, 1, 64))
    weights = mx.ones((1, positions, 1))
    chosen = OPS.index_topk(q, weights, keys, first_position=0, ratio=ratio, k=T, scale=1.0)
    seen = [p for p, row in enumerate(chosen[0].tolist()) if entry in row]
    assert seen == list(range(first, positions))
    marked = mx.where(mx.arange(T)[:, None] == entry, 1.0, mx.zeros((T, 64)))[None]
    output = OPS.sparse_attention(
        0 * q, mx.zeros((1, positions, 64)), mx.zeros(1), mx.ones((positions, 32)),
        mx.zeros((positions, 32)), marked,
        first_position=0, origin=0, ratio=ratio, sliding_window=8, official=False,
    )  # fmt: skip
    attended = np.flatnonzero(np.array(output)[0, :, 0, 0] > 0)
    assert attended.tolist() == list(range(first, positions))
