"""mHC after a sublayer: its output goes to every stream, the old streams mix."""

import mlx.core as mx

from metal_kernels.formats import round_bf16


def hc_post(
    y: mx.array, streams: mx.array, post: mx.array, comb: mx.array, *, official: bool
) -> mx.array:
    """`X'_k = post_k y + sum_j comb_jk X_j`: the sum runs over the row index j.

    y [B, S, D], streams [B, S, N, D], post [B, S, N], comb [B, S, N, N] -> [B, S, N, D] float32.
    """
    mixed = post[..., None] * y[:, :, None, :]
    N = streams.shape[2]
    for j in range(N):
        mixed = mixed + comb[:, :, j, :, None] * streams[:, :, j : j + 1, :]
    return round_bf16(mixed) if official else mixed
