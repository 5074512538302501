"""Exact top-k against numpy's stable sort: ties, plateaus, -inf tails, NaN, any length."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metal_kernels.shared.selection import exact_top_k
from metal_kernels.sparse_attention import sparse_attention

INFINITE = float("inf")


def selected(scores: np.ndarray, k: int) -> np.ndarray:
    return np.array(exact_top_k(mx.array(scores.astype(np.float32)), k))


def stable(scores: np.ndarray, k: int) -> np.ndarray:
    """The first k of a stable descending sort, without -inf and NaN, ascending, then -1."""
    rows = scores.astype(np.float32).reshape(-1, scores.shape[-1])
    k = min(k, rows.shape[-1])
    result = np.full((len(rows), k), -1)
    for row, out in zip(rows, result, strict=True):
        row = np.where(np.isnan(row), -np.inf, row)
        order = [i for i in np.argsort(-row, kind="stable") if row[i] > -np.inf][:k]
        out[: len(order)] = sorted(order)
    return result.reshape(*scores.shape[:-1], k)


def check(scores: np.ndarray, *counts: int) -> None:
    for k in counts:
        np.testing.assert_array_equal(selected(scores, k), stable(scores, k), err_msg=f"k = {k}")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_result_is_ascending_int32() -> None:
    indices = exact_top_k(mx.array([[0.0, 5.0, 1.0, 4.0]]), 3)
    assert indices.dtype == mx.int32
    assert indices.tolist() == [[1, 2, 3]]


def test_ties_go_to_the_lowest_index() -> None:
    assert selected(np.array([1.0, 3, 1, 1, 3, 1]), 4).tolist() == [0, 1, 2, 4]
    check(np.round(random(5, 997)), 1, 2, 31, 500, 996, 997)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
def test_equal_scores_give_the_first_k(value: float) -> None:
    scores = np.full((2, 523), value)
    for k in (1, 2, 512, 522, 523):
        np.testing.assert_array_equal(selected(scores, k), [np.arange(k)] * 2)


def test_a_plateau_of_zeros_across_the_boundary() -> None:
    """ReLU makes most index scores exactly 0; some are above, some below."""
    scores = np.zeros((3, 600))
    scores[0, [3, 599]], scores[1, 100:500], scores[2, ::2] = 1.0, -1.0, 0.5
    check(scores, 1, 2, 3, 64, 199, 200, 201, 300, 301, 599)


def test_negative_zero_ties_with_zero() -> None:
    scores = np.array([[-0.0, 0.0, -0.0, 0.0]])
    assert selected(scores, 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("visible", [0, 1, 5, 16, 17])
def test_an_infinite_tail_is_never_selected(visible: int) -> None:
    scores = random(2, 40)
    scores[:, visible:] = -np.inf
    check(scores, 1, 16, 39, 40, 100)
    assert (selected(scores, 16) >= 0).sum() == 2 * min(visible, 16)


def test_places_without_an_entry_come_last() -> None:
    scores = np.array([[-np.inf, 2.0, -np.inf, 1.0]])
    assert selected(scores, 3).tolist() == [[1, 3, -1]]
    assert selected(scores, 4).tolist() == [[1, 3, -1, -1]]


def test_nan_is_never_selected() -> None:
    scores = random(4, 50)
    scores[:, ::3] = np.nan
    scores[3] = np.nan
    check(scores, 1, 10, 33, 40, 50)


def test_positive_infinity_wins() -> None:
    scores = np.array([[1.0, np.inf, 2.0, np.inf, 3.0]])
    assert selected(scores, 1).tolist() == [[1]]
    assert selected(scores, 3).tolist() == [[1, 3, 4]]


@pytest.mark.parametrize("k", [5, 6, 1000])
def test_k_is_clamped_to_the_length(k: int) -> None:
    assert selected(random(2, 5), k).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_one_score() -> None:
    assert selected(np.array([[7.0], [-np.inf]]), 3).tolist() == [[0], [-1]]


@pytest.mark.parametrize("size", [1 << 18, (1 << 17) - 1])
def test_long_rows(size: int) -> None:
    check(random(1, size), 512, 1024)
    check(np.maximum(random(1, size) - 2, 0), 512, 1024, size // 2)


def test_strided_and_half_precision_scores() -> None:
    scores = random(64, 7).astype(np.float32)
    np.testing.assert_array_equal(np.array(exact_top_k(mx.array(scores).T, 9)), stable(scores.T, 9))
    half = mx.array(random(3, 999)).astype(mx.bfloat16)  # few significant bits make ties
    expected = stable(np.array(half.astype(mx.float32)), 100)
    np.testing.assert_array_equal(np.array(exact_top_k(half, 100)), expected)


VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, INFINITE, -INFINITE, float("nan")]),
    st.floats(width=32, allow_subnormal=False),
)


@settings(max_examples=150, deadline=None)
@given(
    scores=arrays.arrays(
        np.float32, arrays.array_shapes(min_dims=1, max_dims=3, max_side=17), elements=VALUES
    ),
    k=st.integers(1, 20),
)
def test_any_scores(scores: np.ndarray, k: int) -> None:
    check(scores, k)


def test_attention_ignores_places_without_an_entry() -> None:
    """What the selection leaves empty is no entry at all, whatever the entries hold."""
    q, window = mx.array(random(1, 1, 2, 64)), mx.array(random(1, 3, 64, seed=1))
    entries = mx.array(np.full((1, 5, 64), 1e3))
    cos, sin, sinks = mx.ones((1, 32)), mx.zeros((1, 32)), mx.zeros((2,))
    q, window, entries = (x.astype(mx.float32) for x in (q, window, entries))
    options = {"first_position": 30, "origin": 29, "ratio": 4, "sliding_window": 8}
    options["official"] = False
    without = sparse_attention(q, window, sinks, cos, sin, **options)
    nothing = mx.full((1, 1, 4), -1, mx.int32)
    found = sparse_attention(q, window, sinks, cos, sin, entries, nothing, **options)
    np.testing.assert_allclose(np.array(found), np.array(without), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [256, 257, 320, 1000, 4096])
def test_few_of_many_with_ties_nan_and_infinities(size: int) -> None:
    """So few are wanted that whole groups of neighbours are left out by their maxima."""
    values = np.array([1.0, 1.0, 0.0, -INFINITE, np.nan, INFINITE])
    for seed, chances in enumerate(
        [(1, 1, 1, 1, 1, 1), (0, 0, 0, 500, 1, 0), (2, 0, 200, 9, 9, 0)]
    ):
        rng = np.random.default_rng(seed)
        scores = rng.choice(values, (4, size), p=np.array(chances) / sum(chances))
        check(scores, 1, 2, 5)
