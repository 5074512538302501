"""The window latent: RMSNorm, RoPE, cache rounding."""

import mlx.core as mx

from metal_kernels.formats import fp8_kv
from metal_kernels.rotary import rotate


def kv_prepare(
    kv: mx.array,
    norm_weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    eps: float,
    official: bool,
) -> mx.array:
    """kv [B, S, K], cos and sin [S, P] -> [B, S, K] float32.

    `official` rounds to bf16 and the dims before RoPE to FP8 by 64 (what the cache holds).
    """
    kv = mx.fast.rms_norm(kv, norm_weight.astype(mx.float32), eps)
    kv = rotate(kv, cos, sin)
    return fp8_kv(kv, 2 * cos.shape[-1]) if official else kv
