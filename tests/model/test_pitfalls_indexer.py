"""Known pitfalls of the lightning indexer and its selection: rows 14 to 19 and 49."""

import mlx.core as mx
import numpy as np
import pytest

import metal_kernels.compress.reference as compress
import metal_kernels.index_topk.reference as index_topk
import metal_kernels.q_prepare.reference as q_prepare
import metal_kernels.sparse_attention.reference as sparse_attention
from dsv4_mlx.cache import for_one_call
from metal_kernels.registry import plan
from metal_kernels.shared import formats
from tests.model import small
from tests.model.pitfalls import Check, Pitfalls, Plant, expect_notice, replace_op, wrap
from tests.oracle import v4_numpy as v4

PITFALLS = Pitfalls()


def array(x: np.ndarray) -> mx.array:
    return mx.array(np.asarray(x, np.float32))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def select(q, weights, keys, k: int, first: int) -> list[list[int]]:
    """Selected entries of each query of one row, without the empty places."""
    chosen = plan("cpu").ops.index_topk(
        array(q[None]), array(weights[None]), array(keys[None]), first_position=first, ratio=4,
        k=k, scale=1.0,
    )  # fmt: skip
    return [[int(w) for w in row if w >= 0] for row in chosen[0].tolist()]


# --- 14: an empty place is no entry --------------------------------------------------------------


def empty_places_gather_the_last_row(patch: pytest.MonkeyPatch) -> None:
    def make(tile):
        def wrong(entries, selected, *rest):
            if selected is not None:
                selected = mx.where(selected < 0, entries.shape[1] - 1, selected)
            return tile(entries, selected, *rest)

        return wrong

    wrap(patch, sparse_attention, "_entry_tile", make)


def empty_places_gather_the_first_row(patch: pytest.MonkeyPatch) -> None:
    def make(tile):
        def wrong(entries, selected, *rest):
            return tile(entries, None if selected is None else mx.maximum(selected, 0), *rest)

        return wrong

    wrap(patch, sparse_attention, "_entry_tile", make)


def future_entries_fill_the_selection(patch: pytest.MonkeyPatch) -> None:
    def make(op):
        return lambda *a, first_position, **o: op(*a, first_position=10**6, **o)

    replace_op(patch, "index_topk", make)


@PITFALLS.row(
    14,
    empty_places_gather_the_last_row,
    empty_places_gather_the_first_row,
    future_entries_fill_the_selection,
)
def check_a_selection_of_everything_is_the_full_set() -> None:
    """Early queries of a chunk have fewer entries than k; they attend those alone."""
    ops, S, T = plan("cpu").ops, 24, 6
    chosen = ops.index_topk(
        array(random(1, S, 2, 64)), array(random(1, S, 2, seed=1)), array(random(1, T, 64, seed=2)),
        first_position=0, ratio=4, k=T, scale=1.0,
    )  # fmt: skip
    inputs = [random(1, S, 2, 64, seed=3), random(1, S, 64, seed=4), random(2, seed=5)]
    inputs += [np.ones((S, 4)), np.zeros((S, 4)), random(1, T, 64, seed=6)]
    options = {"first_position": 0, "origin": 0, "ratio": 4, "sliding_window": 4, "official": False}
    full, picked = (
        np.array(ops.sparse_attention(*map(array, inputs), selected, **options))
        for selected in (None, chosen)
    )
    np.testing.assert_allclose(picked, full, atol=1e-5)


# --- 15, 16: the Hadamard transform, on both sides ------------------------------------------------


def _without_hadamard(x: mx.array) -> mx.array:
    return formats.fp4_roundtrip(formats.round_bf16(x))


def hadamard_on_keys_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(q_prepare, "hadamard_fp4", _without_hadamard)


def hadamard_on_queries_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(compress, "hadamard_fp4", _without_hadamard)


def hadamard_on_neither(patch: pytest.MonkeyPatch) -> None:
    hadamard_on_keys_only(patch)
    hadamard_on_queries_only(patch)


def prepared(q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index queries [n, 128] and keys [n, 128] at position 0 as our kernels round them.

    A key passes through the compressor as a window of four equal tokens.
    """
    ops, flat = plan("cpu").ops, (mx.ones((len(q), 32)), mx.zeros((len(q), 32)))
    projected = np.concatenate([np.ones((len(q), 64)), q], axis=1)[None]
    _, found_q = ops.q_prepare(
        array(projected), *flat, heads=1, width=64, index_heads=1, index_width=128, eps=1e-6,
        official=True,
    )  # fmt: skip
    rows = np.repeat(k, 4, axis=0)
    own, previous = 0 * rows, 0 * rows - 1e9  # scores: the window before has no weight
    rows = np.concatenate([rows, rows, previous, own], axis=1)[None]
    found_k = ops.compress(
        array(rows), mx.zeros((4, 256)), mx.ones(128), *flat, origin=0, first_window=0,
        windows=len(k), ratio=4, kv_column=0, gate_column=256, eps=0.0, rounding="index",
        storage="float32",
    )  # fmt: skip
    return np.array(found_q, np.float64)[0, :, 0], np.array(found_k, np.float64)[0]


@PITFALLS.row(15, hadamard_on_keys_only, hadamard_on_queries_only)
def check_rounded_products_follow_the_products() -> None:
    q, k = random(200, 128), random(200, 128, seed=1)
    k = k + 0.5 * q  # so that the products differ
    found_q, found_k = prepared(q, k)
    expected = (q * v4.rms_norm(k, 1.0, 0.0)).sum(axis=1)
    found = (found_q * found_k).sum(axis=1)
    assert np.corrcoef(found, expected)[0, 1] > 0.95
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()


@PITFALLS.row(16, hadamard_on_neither, hadamard_on_keys_only, hadamard_on_queries_only)
def check_index_vectors_are_rotated_before_fp4() -> None:
    """Outliers, which FP4 alone would lose, keep the oracle's choice of entries."""
    outliers = np.where(np.arange(128) % 32 == 5, 40.0, 1.0)
    q, k = random(300, 128) * outliers, random(300, 128, seed=1) * outliers
    found = prepared(q, k)
    unit = v4.rms_norm(k, 1.0, 0.0)
    expected = [
        v4.fp4_roundtrip(v4.round_bf16(v4.hadamard(v4.round_bf16(x))), 32) for x in (q, unit)
    ]
    overlap = []
    for ours, theirs in zip(found[0] @ found[1].T, expected[0] @ expected[1].T, strict=True):
        best = set(np.argsort(-theirs, kind="stable")[:30])
        overlap.append(len(best & set(np.argsort(-ours, kind="stable")[:30])) / 30)
    assert np.mean(overlap) > 0.99


# --- 17: relu per head, before the weights --------------------------------------------------------


def _wrong_scores(name: str, score) -> Plant:
    """`score(products [B, S, H, T], head weights [B, S, H, 1]) -> [B, S, T]`."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        def wrong(q, head_weights, keys):
            products = q @ keys[:, None].swapaxes(-1, -2)
            return score(products, head_weights[..., None])

        patch.setattr(index_topk, "index_scores", wrong)

    plant.__name__ = name
    return plant


WRONG_SCORES = (
    _wrong_scores("no_relu", lambda z, a: (a * z).sum(axis=2)),
    _wrong_scores("relu_after_the_sum", lambda z, a: mx.maximum((a * z).sum(axis=2), 0)),
    _wrong_scores("relu_after_the_weight", lambda z, a: mx.maximum(a * z, 0).sum(axis=2)),
    _wrong_scores(
        "softmax_of_the_weights",
        lambda z, a: (mx.softmax(a, axis=2) * mx.maximum(z, 0)).sum(axis=2),
    ),
)


@PITFALLS.row(17, *WRONG_SCORES)
def check_relu_cuts_each_head_before_its_weight() -> None:
    """Two heads that read one dimension each; the best of three entries, by hand."""
    q = np.zeros((1, 2, 64))
    q[0, 0, 0] = q[0, 1, 1] = 1

    def best(weights: list[float], *keys: list[float]) -> int:
        padded = np.zeros((len(keys), 64))
        padded[:, :2] = keys
        return select(q, np.array([weights]), padded, 1, 4 * len(keys))[0][0]

    assert best([1, 1], [1, 1], [-5, 3], [0, 2.5]) == 1  # 2, 3, 2.5
    assert best([1, -2], [0, 3], [0, 0], [1, 2]) == 1  # -6, 0, -3
    assert best([-1, -2], [3, 0], [0, 2], [-1, 1]) == 2  # -3, -4, -2


# --- 18: the weights' scale and sign --------------------------------------------------------------


def _wrong_weights(name: str, change) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        def make(op):
            def wrong(q, head_weights, *rest, **options):
                return op(q, change(head_weights, *q.shape[-2:]), *rest, **options)

            return wrong

        replace_op(patch, "index_topk", make)

    plant.__name__ = name
    return plant


@PITFALLS.row(
    18,
    _wrong_weights("scaled_by_head_width_only", lambda w, heads, width: w * heads**0.5),
    _wrong_weights("scaled_by_heads_only", lambda w, heads, width: w * width**0.5),
    _wrong_weights("absolute_weights", lambda w, heads, width: mx.abs(w)),
)
def check_head_weights_are_scaled_and_keep_their_sign() -> None:
    """As they reach the scores of a layer."""
    settings = small.one_layer(4, index_topk=1)
    tensors = small.weights(settings)
    seen = []

    def watched(q, head_weights, keys):
        seen.append((q.shape, head_weights))
        return index_topk_scores(q, head_weights, keys)

    index_topk_scores = index_topk.index_scores
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_topk, "index_scores", watched)
        attention = small.model(settings, tensors).layers[0].self_attn
        x = random(1, 8, 48)
        mx.eval(attention(array(x), for_one_call(small.SPARSE)))
    heads, width = settings["index_n_heads"], settings["index_head_dim"]
    (shape, weights), *_ = seen
    assert shape == (1, 8, heads, width)
    matrix = tensors["layers.0.attn.indexer.weights_proj.weight"]
    expected = x[0] @ matrix.T / np.sqrt(heads * width)
    assert (expected < 0).any()
    np.testing.assert_allclose(np.array(weights)[0], expected, atol=1e-6)


# --- 19, 49: the selection is exact ---------------------------------------------------------------


def blocks_preselected_by_their_mean(patch: pytest.MonkeyPatch) -> None:
    def make(top_k):
        def wrong(scores, k):
            T = scores.shape[-1]
            padded = mx.pad(scores, [(0, 0)] * (scores.ndim - 1) + [(0, -T % 64)])
            means = padded.reshape(*scores.shape[:-1], -1, 64).mean(axis=-1)
            threshold = mx.sort(means, axis=-1)[..., -min(16, means.shape[-1]), None]
            kept = mx.repeat(means >= threshold, 64, axis=-1)[..., :T]
            return top_k(mx.where(kept, scores, -float("inf")), k)

        return wrong

    wrap(patch, index_topk, "exact_top_k", make)


@PITFALLS.row(19, blocks_preselected_by_their_mean)
def check_a_needle_among_many_entries_is_selected() -> None:
    """Its whole block scores low but for itself."""
    T, needle = 25_000, 12_345
    keys = np.zeros((T, 64))
    keys[:, 0] = 1 + 0.1 * random(T)
    keys[needle // 64 * 64 : needle // 64 * 64 + 64, 0] = 0.01
    keys[needle, 0] = 9
    q = np.zeros((1, 1, 64))
    q[..., 0] = 1
    chosen = select(q, np.ones((1, 1)), keys, 512, 4 * T)[0]
    assert needle in chosen
    assert chosen == sorted(np.argsort(-keys[:, 0].astype(np.float32), kind="stable")[:512])


def ties_to_the_highest_index(patch: pytest.MonkeyPatch) -> None:
    def make(top_k):
        def wrong(scores, k):
            T = scores.shape[-1]
            flipped = top_k(scores[..., ::-1], k)
            return mx.sort(mx.where(flipped < 0, -1, T - 1 - flipped), axis=-1)

        return wrong

    wrap(patch, index_topk, "exact_top_k", make)


@PITFALLS.row(49, ties_to_the_highest_index)
def check_scores_that_tie_at_zero_go_to_the_lowest_index() -> None:
    """One index head: most products are negative, most scores exactly zero."""
    q, keys = random(3, 1, 64), random(200, 64, seed=1)
    weights = np.ones((3, 1))
    scores = v4.index_scores(q, keys, weights)
    assert ((scores == 0).sum(axis=1) > 60).all()
    expected, margins = v4.select_top_k(scores, 150)
    assert (margins == 0).all()
    assert select(q, weights, keys, 150, 4 * 200) == [row.tolist() for row in expected]


@pytest.mark.parametrize("check", PITFALLS.checks())
def test_avoided(check: Check) -> None:
    check()


@pytest.mark.parametrize(("check", "mistake"), PITFALLS.planted())
def test_noticed(check: Check, mistake: Plant) -> None:
    expect_notice(check, mistake)
