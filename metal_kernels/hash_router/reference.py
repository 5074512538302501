"""Hash routing: the token id names its experts, the scores only weight them."""

import mlx.core as mx

from metal_kernels.router.reference import expert_scores, normalised_weights


def hash_router(
    x: mx.array, weight: mx.array, table: mx.array, tokens: mx.array, *, scaling: float
) -> tuple[mx.array, mx.array]:
    """Experts by table: x [M, D], weight [E, D], table [V, k], tokens [M] (any integers).

    Experts [M, k] uint32 in the table's order and weights [M, k] float32. Tokens lie in [0, V),
    the table's numbers in [0, E). A token with NaN in x has NaN weights.
    """
    experts = table[tokens].astype(mx.uint32)
    return experts, normalised_weights(expert_scores(x, weight), experts, scaling)
