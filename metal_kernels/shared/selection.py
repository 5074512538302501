"""Exact top-k: ties go to the lowest index, whatever the backend's partition does with them."""

import mlx.core as mx

_GROUP = 64
_GROUPED_FROM = 4
"""Groups pay where they are at least so many times the selected ones."""


def exact_top_k(scores: mx.array, k: int) -> mx.array:
    """Indices of the `k` largest scores of the last axis, ascending: [..., T] -> [..., k] int32.

    Equal scores are taken from the lowest index up. NaN counts as -inf, and a place that only -inf
    could fill is -1 (all such places come last). `k` is clamped to T.
    """
    T = scores.shape[-1]
    k = min(k, T)
    scores = mx.where(mx.isnan(scores), -float("inf"), scores.astype(mx.float32))
    if _GROUPED_FROM * k * _GROUP < T:
        return _top_k_of_groups(scores, k)
    return _top_k(scores, k)


def _top_k(scores: mx.array, k: int) -> mx.array:
    T = scores.shape[-1]
    positions = mx.broadcast_to(mx.arange(T, dtype=mx.int32), scores.shape)
    if k < T:
        threshold = -mx.partition(-scores, k - 1, axis=-1)[..., k - 1 : k]
        above = scores > threshold
        tied = scores == threshold
        wanted = k - above.sum(axis=-1, keepdims=True)
        taken = above | (tied & (mx.cumsum(tied.astype(mx.int32), axis=-1) <= wanted))
        taken = taken & (scores > -float("inf"))
        positions = mx.partition(mx.where(taken, positions, T), k - 1, axis=-1)[..., :k]
    else:
        positions = mx.where(scores > -float("inf"), positions, T)
    positions = mx.sort(positions, axis=-1)
    return mx.where(positions == T, -1, positions)


def _top_k_of_groups(scores: mx.array, k: int) -> mx.array:
    """The same from the `k` groups of neighbours that have the largest maxima.

    Whatever lies in another group is preceded by those `k` maxima: they are larger, or equal and at
    lower indices. So one pass of maxima replaces a partition of all scores.
    """
    rest = -scores.shape[-1] % _GROUP
    if rest:
        widths = [(0, 0)] * (scores.ndim - 1) + [(0, rest)]
        scores = mx.pad(scores, widths, constant_values=-float("inf"))
    groups = mx.unflatten(scores, -1, (-1, _GROUP))
    best = _top_k(groups.max(axis=-1), k)
    group = mx.maximum(best, 0)[..., None]
    candidates = mx.where(
        best[..., None] < 0, -float("inf"), mx.take_along_axis(groups, group, axis=-2)
    )
    positions = group * _GROUP + mx.arange(_GROUP, dtype=mx.int32)
    chosen = _top_k(candidates.flatten(-2), k)
    found = mx.take_along_axis(positions.flatten(-2), mx.maximum(chosen, 0), axis=-1)
    return mx.where(chosen < 0, -1, found)
