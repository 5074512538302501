"""Queries: unweighted RMS per head, then RoPE on the last dims."""

import mlx.core as mx

from metal_kernels.formats import round_bf16
from metal_kernels.rotary import rotate


def q_prepare(q: mx.array, cos: mx.array, sin: mx.array, *, eps: float, official: bool) -> mx.array:
    """q [B, S, H, K], cos and sin [S, P] -> [B, S, H, K] float32; rounds after the head norm."""
    q = q * mx.rsqrt(mx.square(q).mean(axis=-1, keepdims=True) + eps)
    if official:
        q = round_bf16(q)
    return rotate(q, cos[:, None], sin[:, None])
