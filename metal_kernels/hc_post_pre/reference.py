"""mHC between two sublayers: the streams after one, and what the next one reads from them."""

import mlx.core as mx

from metal_kernels.hc_post.reference import hc_post
from metal_kernels.hc_pre.reference import hc_pre


def hc_post_pre(
    y: mx.array,
    streams: mx.array,
    post: mx.array,
    comb: mx.array,
    fn: mx.array,
    base: mx.array,
    scale: mx.array,
    norm_weight: mx.array,
    *,
    iters: int,
    hc_eps: float,
    norm_eps: float,
    official: bool,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """`hc_pre` of `hc_post`: y [B, S, D] ends one sublayer, fn and all after it belong to the next.

    -> streams [B, S, N, D], normed [B, S, D], post [B, S, N], comb [B, S, N, N], float32.
    """
    mixed = hc_post(y, streams, post, comb, official=official)
    following = hc_pre(
        mixed, fn, base, scale, norm_weight,
        iters=iters, hc_eps=hc_eps, norm_eps=norm_eps, official=official,
    )  # fmt: skip
    return mixed, *following
