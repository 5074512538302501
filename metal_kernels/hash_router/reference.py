"""Hash routing: the token id names its experts, the scores only weight them."""

import mlx.core as mx

from metal_kernels.router.reference import expert_scores, normalised_weights


def hash_router(
    x: mx.array, weight: mx.array, table: mx.array, tokens: mx.array, *, scaling: float
) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], table [V, k], tokens [M] -> experts [M, k] int32, weights [M, k]."""
    experts = table[tokens].astype(mx.int32)
    return experts, normalised_weights(expert_scores(x, weight), experts, scaling)
