"""What must hold for any input: sums, norms, causality, tiling, single rows of a batch."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import metal_kernels.index_topk.reference as index_topk
import metal_kernels.sparse_attention.reference as sparse_attention
from metal_kernels.registry import kernels, plan
from metal_kernels.shared.formats import load_stored
from metal_kernels.shared.rotary import rotate

OPS = plan("cpu").ops


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def hc_pre(streams: mx.array, *, iters: int = 20, seed: int = 0, strength: float = 1.0):
    N, D = streams.shape[2:]
    mixes = (2 + N) * N
    return OPS.hc_pre(
        streams, normal(mixes, N * D, seed=seed), normal(mixes, seed=seed + 1),
        strength * normal(3, seed=seed + 2), mx.ones(D),
        iters=iters, hc_eps=1e-6, norm_eps=1e-6, official=False,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    S=st.sampled_from([1, 2, 7, 13]),
    N=st.integers(1, 5),
    iters=st.sampled_from([5, 20]),
    size=st.sampled_from([1e-6, 1.0, 1e5]),
    seed=st.integers(0, 1000),
)
def test_sinkhorn_columns_sum_to_one(S: int, N: int, iters: int, size: float, seed: int) -> None:
    """The last step divides by column sums + eps, which leaves each just below one."""
    _, post, comb = hc_pre(size * normal(1, S, N, 8, seed=seed), iters=iters, seed=seed)
    comb = np.array(comb, np.float64)
    np.testing.assert_allclose(comb.sum(axis=-2), 1 / (1 + 1e-6), atol=1e-5)
    assert (comb >= 0).all() and (np.array(post) >= 0).all() and (np.array(post) <= 2).all()


def test_sinkhorn_rows_converge() -> None:
    _, _, comb = hc_pre(normal(1, 50, 4, 16), strength=0.2)
    np.testing.assert_allclose(np.array(comb).sum(axis=-1), 1, atol=1e-4)


def test_streams_of_any_size_give_the_same_mix() -> None:
    streams = normal(1, 3, 4, 16)
    one, other = hc_pre(streams), hc_pre(1000 * streams)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    M=st.sampled_from([1, 2, 13]),
    k=st.integers(1, 7),
    scaling=st.sampled_from([1.5, 2.5]),
    size=st.sampled_from([0.0, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_router_weights_sum_to_the_scaling_factor(
    M: int, k: int, scaling: float, size: float, seed: int
) -> None:
    x, weight = size * normal(M, 16, seed=seed), normal(7, 16, seed=seed + 1)
    experts, weights = OPS.router(x, weight, normal(7, seed=seed + 2), k=k, scaling=scaling)
    assert all(len(set(row)) == k and min(row) >= 0 for row in experts.tolist())
    np.testing.assert_allclose(np.array(weights).sum(axis=-1), scaling, rtol=1e-6)
    table = mx.argsort(normal(5, 7, seed=seed + 3), axis=-1)[:, :k].astype(mx.int32)
    _, weights = OPS.hash_router(x, weight, table, mx.arange(M) % 5, scaling=scaling)
    np.testing.assert_allclose(np.array(weights).sum(axis=-1), scaling, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    first=st.integers(0, 60),
    S=st.sampled_from([1, 3, 13]),
    k=st.sampled_from([1, 4, 17]),
    seed=st.integers(0, 1000),
)
def test_indexer_never_selects_the_future(first: int, S: int, k: int, seed: int) -> None:
    T = max(1, (first + S) // 4)
    selected = np.array(
        OPS.index_topk(
            normal(1, S, 2, 64, seed=seed), normal(1, S, 2, seed=seed + 1),
            normal(1, T, 64, seed=seed + 2), first_position=first, ratio=4, k=k, scale=1.0,
        )
    )[0]  # fmt: skip
    for s, row in enumerate(selected):
        visible = (first + s + 1) // 4
        real = row[row >= 0]
        assert len(real) == min(k, visible, T)
        assert (real < visible).all() and (np.diff(real) > 0).all()
        assert (row[len(real) :] == -1).all()


@pytest.mark.parametrize(("width", "pairs"), [(2, 1), (8, 4), (80, 8), (512, 32)])
def test_rotating_back_gives_the_vector_again(width: int, pairs: int) -> None:
    x, angles = normal(3, width), 10 * normal(3, pairs, seed=1)
    cos, sin = mx.cos(angles), mx.sin(angles)
    turned = rotate(x, cos, sin)
    np.testing.assert_array_equal(
        np.array(turned[:, : width - 2 * pairs]), np.array(x[:, : width - 2 * pairs])
    )
    lengths = [np.linalg.norm(np.array(a), axis=-1) for a in (turned, x)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)
    np.testing.assert_allclose(
        np.array(rotate(turned, cos, sin, inverse=True)), np.array(x), atol=1e-5
    )
    quarter = rotate(x, mx.zeros((3, pairs)), mx.ones((3, pairs)))[:, width - 2 * pairs :]
    tail = np.array(x)[:, width - 2 * pairs :]
    np.testing.assert_array_equal(np.array(quarter)[:, ::2], -tail[:, 1::2])
    np.testing.assert_array_equal(np.array(quarter)[:, 1::2], tail[:, ::2])


def test_attention_output_lies_between_its_values() -> None:
    """Weights sum to at most one, so no output is longer than the longest value."""
    window = normal(1, 40, 64)
    cos, sin = mx.ones((40, 32)), mx.zeros((40, 32))
    output = OPS.sparse_attention(
        5 * normal(1, 40, 3, 64, seed=1), window, normal(3, seed=2), cos, sin,
        first_position=0, origin=0, ratio=0, sliding_window=8, official=False,
    )  # fmt: skip
    longest = np.linalg.norm(np.array(window), axis=-1).max()
    # Up to the rounding of 8 weights and of a sum of 8 products.
    most = longest * (1 + 16 * 2.0**-24)
    assert (np.linalg.norm(np.array(output, np.float64), axis=-1) <= most).all()


@pytest.mark.parametrize("case", range(len(kernels()["sparse_attention"].cases)))
def test_tiles_of_attention_change_nothing(monkeypatch, case: int) -> None:
    arguments = kernels()["sparse_attention"].cases[case].make(0)
    whole = np.array(sparse_attention.sparse_attention(**{**arguments, "official": False}))
    monkeypatch.setattr(sparse_attention, "_TILE_ELEMENTS", 3 * 4 * (128 + 17 * 128))
    tiled = np.array(sparse_attention.sparse_attention(**{**arguments, "official": False}))
    np.testing.assert_allclose(tiled, whole, atol=2e-6)


@pytest.mark.parametrize("case", range(len(kernels()["index_topk"].cases)))
def test_tiles_of_the_index_change_nothing(monkeypatch, case: int) -> None:
    arguments = kernels()["index_topk"].cases[case].make(0)
    whole = np.array(index_topk.index_topk(**arguments))
    monkeypatch.setattr(index_topk, "_TILE_ELEMENTS", 1000)
    monkeypatch.setattr(index_topk, "_KEY_TILE", 97)
    tiled = np.array(index_topk.index_topk(**arguments))
    assert tiled.shape == whole.shape
    scores, rounding = scores_and_rounding(arguments)
    for place in np.ndindex(*whole.shape[:2]):
        differing = np.setxor1d(whole[place], tiled[place])
        if len(differing):  # products of other shapes: only what the last bits decide
            last = scores[place][whole[place]].min()
            assert (np.abs(scores[place][differing] - last) <= 2 * rounding[place]).all()


def scores_and_rounding(arguments: dict) -> tuple[np.ndarray, np.ndarray]:
    """Index scores [B, S, T] in float64, and how far float32 is off from them at most [B, S].

    A sum of n float32 products, in any order, is off by at most n * 2**-24 of the sum of their
    absolutes: K products of a key, then H heads, and a rounding for the scale."""
    q, weights = (np.array(arguments[n], np.float64) for n in ("index_q", "head_weights"))
    keys = np.array(load_stored(arguments["keys"], q.shape[-1], 0, "key"), np.float64)
    dots = np.maximum(np.einsum("bshk,btk->bsht", q, keys), 0)
    sizes = np.einsum("bshk,btk->bsht", np.abs(q), np.abs(keys))
    scores = np.einsum("bsh,bsht->bst", weights, dots) * arguments["scale"]
    terms = np.einsum("bsh,bsht->bst", np.abs(weights), sizes) * arguments["scale"]
    return scores, (sum(q.shape[2:]) + 2) * 2.0**-24 * terms.max(axis=-1, initial=0)


@pytest.mark.parametrize(
    "name", ["q_prepare", "qkv_prepare", "hc_post", "hc_post_pre", "hc_head", "hc_pre"]
)
def test_a_batch_is_its_single_rows(name: str) -> None:
    kernel = kernels()[name]
    arguments = next(c for c in kernel.cases if c.id == "odd-sizes").make(0)
    arguments = {n: a for n, a in arguments.items() if a is not None}
    batched = {n for n, shape in kernel.inputs.items() if shape.startswith("B ")}
    whole = kernel.reference(**arguments)
    for row in range(2):
        single = {n: a[row : row + 1] if n in batched else a for n, a in arguments.items()}
        one = kernel.reference(**single)
        for a, b in zip(
            *((x if isinstance(x, tuple) else (x,)) for x in (one, whole)), strict=True
        ):
            np.testing.assert_allclose(np.array(a)[0], np.array(b)[row], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("ratio", "ring"), [(4, 8), (4, 11), (4, 64), (128, 128), (128, 300)])
def test_compress_from_a_ring_in_any_split_is_compress_at_once(ratio: int, ring: int) -> None:
    """A ring keeps the last rows; the windows a call completes are pooled when it has come."""
    windows, d = 2 + 40 // ratio, 8
    tokens, c = windows * ratio, d * (2 if ratio == 4 else 1)
    rows, bias = normal(1, tokens, 2 * c), normal(ratio, c, seed=1)
    cos, sin = mx.ones((windows, 2)), mx.zeros((windows, 2))
    options = {"ratio": ratio, "kv_column": c, "gate_column": 0, "eps": 1e-6}
    options |= {"rounding": "none", "storage": "float32"}

    def entries(kept: mx.array, first: int, count: int, origin: int) -> np.ndarray:
        found = OPS.compress(
            kept, bias, mx.ones(d), cos[:count], sin[:count],
            origin=origin, first_window=first, windows=count, **options,
        )  # fmt: skip
        return np.array(found)[0]

    whole = entries(rows, 0, windows, 0)
    kept = mx.full((1, ring, 2 * c), float("nan"))
    for window in range(windows):
        for position in range(window * ratio, (window + 1) * ratio):
            kept[:, (position - 3) % ring] = rows[:, position]
        np.testing.assert_allclose(entries(kept, window, 1, 3)[0], whole[window], atol=1e-6)
    later = entries(rows[:, (windows // 2 - 1) * ratio :], windows // 2, windows - windows // 2,
                    (windows // 2 - 1) * ratio)  # fmt: skip
    np.testing.assert_allclose(later, whole[windows // 2 :], atol=1e-6)


def test_window_zero_pools_nothing_from_before_it() -> None:
    """What a ring holds where positions -4 to -1 would lie is of later or of no tokens."""
    rows = normal(1, 8, 16)
    stale = mx.concatenate([rows[:, :4], mx.full((1, 4, 16), float("nan"))], axis=1)
    found = [
        OPS.compress(
            kept, mx.zeros((4, 8)), mx.ones(4), mx.ones((1, 1)), mx.zeros((1, 1)),
            origin=0, first_window=0, windows=1, ratio=4, kv_column=0, gate_column=8, eps=1e-6,
            rounding="none", storage="float32",
        )
        for kept in (rows, stale)
    ]  # fmt: skip
    assert mx.array_equal(*found)


@pytest.mark.parametrize(
    ("name", "case"), [("qkv_prepare", "plain"), ("q_prepare", "plain"), ("compress", "hca-plain")]
)
def test_without_rounding_gradients_are_those_of_differences(name: str, case: str) -> None:
    kernel = kernels()[name]
    arguments = next(c for c in kernel.cases if c.id == case).make(0)
    first = next(iter(kernel.inputs))
    x, rest = arguments.pop(first), arguments

    def total(x: mx.array) -> mx.array:
        result = kernel.reference(x, **rest)
        arrays = result if isinstance(result, tuple) else (result,)
        return sum((a * normal(*a.shape, seed=i)).sum() for i, a in enumerate(arrays))

    direction, step = normal(*x.shape, seed=9), 1e-2
    slope = (mx.grad(total)(x) * direction).sum().item()
    differences = (total(x + step * direction) - total(x - step * direction)).item() / (2 * step)
    assert slope == pytest.approx(differences, rel=2e-3, abs=2e-2)
