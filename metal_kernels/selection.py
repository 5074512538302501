"""Exact top-k: ties go to the lowest index, whatever the backend's partition does with them."""

import mlx.core as mx


def exact_top_k(scores: mx.array, k: int) -> mx.array:
    """Indices of the `k` largest scores of the last axis, ascending: [..., T] -> [..., k] int32.

    Equal scores are taken from the lowest index up. NaN counts as -inf, and a place that only -inf
    could fill is -1 (all such places come last). `k` is clamped to T.
    """
    T = scores.shape[-1]
    k = min(k, T)
    scores = mx.where(mx.isnan(scores), -float("inf"), scores.astype(mx.float32))
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
