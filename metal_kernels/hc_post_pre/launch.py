"""Geometry of hc_post and hc_pre in two launches: the expansion rides in the mix."""

import mlx.core as mx

from metal_kernels.hc_pre.launch import check_rows, collapse, first_launch
from metal_kernels.registry import kernels


def hc_post_pre(
    backend: str,
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
    """-> streams [B, S, N, D], normed [B, S, D], post [B, S, N], comb [B, S, N, N]: two launches.

    They read `4 B S (1 + 2 N) D` bytes and fn, and write `4 B S (N + 1) D`. hc_post and hc_pre one
    after the other take a launch and `4 B S N D` bytes more; the numbers are theirs bit for bit.
    """
    sizes = kernels()["hc_post_pre"].check(
        {
            "y": y,
            "streams": streams,
            "post": post,
            "comb": comb,
            "fn": fn,
            "base": base,
            "scale": scale,
            "norm_weight": norm_weight,
        }
    )
    check_rows("hc_post_pre", fn, sizes["N"], sizes["D"], rows=(2 + sizes["N"]) * sizes["N"])
    mixed, partials = first_launch(
        backend,
        "hc_post_mix",
        {"y": y, "streams": streams, "post": post, "comb": comb, "fn": fn},
        {"mixed": (streams.shape, mx.float32)},
        OFFICIAL=official,
    )
    return mixed, *collapse(
        backend, mixed, partials, base, scale, norm_weight,
        iters=iters, hc_eps=hc_eps, norm_eps=norm_eps, official=official,
    )  # fmt: skip
