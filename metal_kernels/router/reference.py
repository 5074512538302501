"""Score routing: sqrt(softplus), bias for the choice only, weights from the unbiased scores."""

import mlx.core as mx

from metal_kernels.selection import exact_top_k


def expert_scores(x: mx.array, weight: mx.array) -> mx.array:
    """`sqrt(softplus(x W^T))`: [M, D], [E, D] -> [M, E] float32."""
    logits = x.astype(mx.float32) @ weight.astype(mx.float32).T
    return mx.sqrt(mx.logaddexp(logits, 0.0))


def normalised_weights(scores: mx.array, experts: mx.array, scaling: float) -> mx.array:
    """Scores of the chosen experts, scaled to sum to `scaling`: [M, E], [M, k] -> [M, k]."""
    chosen = mx.take_along_axis(scores, experts, axis=-1)
    return chosen / chosen.sum(axis=-1, keepdims=True) * scaling


def router(
    x: mx.array, weight: mx.array, bias: mx.array, *, k: int, scaling: float
) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], bias [E] -> experts [M, k] int32, weights [M, k] float32."""
    scores = expert_scores(x, weight)
    # NaN scores select nothing (-1); any valid expert keeps the weights, and the output, NaN.
    experts = mx.maximum(exact_top_k(mx.stop_gradient(scores + bias), k), 0)
    return experts, normalised_weights(scores, experts, scaling)
