"""Queries of attention and of the indexer, from the one matrix product that makes both."""

import mlx.core as mx

from metal_kernels.shared.formats import hadamard_fp4, round_bf16
from metal_kernels.shared.rotary import rotate


def q_prepare(
    projected: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    heads: int,
    width: int,
    index_heads: int,
    index_width: int,
    eps: float,
    official: bool,
) -> tuple[mx.array, mx.array | None]:
    """projected [B, S, H K + Hi Ki], cos and sin [S, P] -> q [B, S, H, K], index q [B, S, Hi, Ki].

    Attention's queries: unweighted RMS per head, rounded to bf16 if `official`, then RoPE. Index
    queries: RoPE, then the Hadamard and FP4 that index keys get too; without `official` the
    Hadamard is dropped on both, as it is orthogonal. No index heads: None.
    """
    B, S, _ = projected.shape
    q = projected[..., : heads * width].reshape(B, S, heads, width)
    q = q * mx.rsqrt(mx.square(q).mean(axis=-1, keepdims=True) + eps)
    q = rotate(round_bf16(q) if official else q, cos[:, None], sin[:, None])
    if index_heads == 0:
        return q, None
    index_q = projected[..., heads * width :].reshape(B, S, index_heads, index_width)
    index_q = rotate(index_q, cos[:, None], sin[:, None])
    return q, hadamard_fp4(index_q) if official else index_q
