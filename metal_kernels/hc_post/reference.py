"""mHC after a sublayer: its output goes to every stream, the old streams mix."""

import mlx.core as mx

from metal_kernels.expert_sum.reference import expert_sum
from metal_kernels.shared.formats import round_bf16


def hc_post(
    y: mx.array,
    streams: mx.array,
    post: mx.array,
    comb: mx.array,
    routed: mx.array | None = None,
    *,
    official: bool,
) -> mx.array:
    """`X'_k = post_k y + sum_j comb_jk X_j`: the sum runs over the row index j.

    y [B, S, D], streams [B, S, N, D], post [B, S, N], comb [B, S, N, N] -> [B, S, N, D] float32.
    With `routed` [B, S, k, D] (already weighted) the sublayer's output is their sum plus y, which
    then is the shared expert's; `official` rounds that output and the new streams to bf16.
    """
    if routed is not None:
        k, D = routed.shape[2:]
        summed = expert_sum(routed.reshape(-1, k, D), y.reshape(-1, D), official=official)
        y = summed.reshape(y.shape)
    mixed = post[..., None] * y[:, :, None, :]
    N = streams.shape[2]
    for j in range(N):
        mixed = mixed + comb[:, :, j, :, None] * streams[:, :, j : j + 1, :]
    return round_bf16(mixed) if official else mixed
