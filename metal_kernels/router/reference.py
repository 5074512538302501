"""Score routing: sqrt(softplus), bias for the choice only, weights from the unbiased scores."""

import mlx.core as mx

from metal_kernels.dense_matvec.reference import dense_matvec
from metal_kernels.shared.selection import exact_top_k


def expert_scores(x: mx.array, weight: mx.array) -> mx.array:
    """`sqrt(softplus(x W^T))`: [M, D], [E, D] -> [M, E] float32."""
    return mx.sqrt(mx.logaddexp(dense_matvec(x, weight), 0.0))


def normalised_weights(scores: mx.array, experts: mx.array, scaling: float) -> mx.array:
    """Scores of the chosen experts, scaled to sum to `scaling`: [M, E], [M, k] -> [M, k]."""
    chosen = mx.take_along_axis(scores, experts, axis=-1)
    return chosen / chosen.sum(axis=-1, keepdims=True) * scaling


def router(
    x: mx.array, weight: mx.array, bias: mx.array, *, k: int, scaling: float
) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], bias [E] -> experts [M, k] uint32, weights [M, k] float32.

    Experts ascend; equal biased scores go to the lowest expert. A score that is NaN or -inf is not
    chosen. Where fewer than `k` remain, expert 0 fills the last places: any expert will do, because
    a token with NaN has NaN scores everywhere and so keeps its weights, and its output, NaN.
    """
    scores = expert_scores(x, weight)
    chosen = exact_top_k(mx.stop_gradient(scores + bias), k)
    experts = mx.maximum(chosen, 0).astype(mx.uint32)
    return experts, normalised_weights(scores, experts, scaling)
