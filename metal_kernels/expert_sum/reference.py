"""The expert outputs of one token and the shared expert's, added in float32."""

import mlx.core as mx

from metal_kernels.shared.formats import round_bf16


def expert_sum(routed: mx.array, shared: mx.array, *, official: bool) -> mx.array:
    """routed [M, k, D] (already weighted), shared [M, D] -> [M, D] float32.

    `official` rounds the sum to bfloat16 once. NaN stays in its channel.
    """
    total = routed.sum(axis=1) + shared
    return round_bf16(total) if official else total
