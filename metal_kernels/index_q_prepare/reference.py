"""Index queries: RoPE, then the Hadamard and FP4 rounding that index keys get too."""

import mlx.core as mx

from metal_kernels.formats import hadamard_fp4
from metal_kernels.rotary import rotate


def index_q_prepare(q: mx.array, cos: mx.array, sin: mx.array, *, official: bool) -> mx.array:
    """q [B, S, H, K], cos and sin [S, P] -> [B, S, H, K] float32.

    Without `official` the Hadamard is dropped on queries and keys alike: it is orthogonal.
    """
    q = rotate(q, cos[:, None], sin[:, None])
    return hadamard_fp4(q) if official else q
