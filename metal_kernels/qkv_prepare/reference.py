"""The two latents of a token: the queries' residual, normed, and the window row, ready to store."""

import mlx.core as mx

from metal_kernels.shared.formats import RowStorage, fp8_kv, round_bf16, store
from metal_kernels.shared.rotary import rotate


def qkv_prepare(
    projected: mx.array,
    q_norm_weight: mx.array,
    kv_norm_weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    eps: float,
    official: bool,
    storage: RowStorage,
) -> tuple[mx.array, mx.array]:
    """projected [B, S, L + K] -> residual [B, S, L] float32 and stored window rows [B, S, ...].

    The first L columns are normed; the last K are normed and rotated by cos and sin [S, P].
    `official` rounds both to bf16, and the dims before RoPE to FP8 by 64.
    """
    L = q_norm_weight.size
    q_residual = mx.fast.rms_norm(projected[..., :L], q_norm_weight.astype(mx.float32), eps)
    kv = mx.fast.rms_norm(projected[..., L:], kv_norm_weight.astype(mx.float32), eps)
    kv, rope_dims = rotate(kv, cos, sin), 2 * cos.shape[-1]
    if official:
        q_residual, kv = round_bf16(q_residual), fp8_kv(kv, rope_dims)
    return q_residual, store(kv, storage, "latent", rope_dims)
