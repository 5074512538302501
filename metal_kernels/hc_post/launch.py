"""Geometry of the expansion after a sublayer: one launch, a thread for each channel of a token."""

import mlx.core as mx

from metal_kernels.registry import kernels
from metal_kernels.sources import launch

# Few, so that one token of 4096 channels still makes 64 threadgroups.
_MOST_THREADS = 64


def hc_post(
    backend: str,
    y: mx.array,
    streams: mx.array,
    post: mx.array,
    comb: mx.array,
    routed: mx.array | None = None,
    *,
    official: bool,
) -> mx.array:
    """y [B, S, D], streams [B, S, N, D], routed [B, S, k, D] -> [B, S, N, D]: one launch.

    It reads `4 B S (k + 1 + N) D` bytes and writes `4 B S N D`, each value once.
    """
    sizes = kernels()["hc_post"].check(
        {"y": y, "streams": streams, "post": post, "comb": comb, "routed": routed}
    )
    B, S, N, D = (sizes[letter] for letter in "BSND")
    threads = min(_MOST_THREADS, -(-D // 32) * 32)
    (mixed,) = launch(
        backend,
        "hc_post",
        # Without experts the text does not read `routed`: any array stands in for it.
        inputs={
            "y": y,
            "streams": streams,
            "post": post,
            "comb": comb,
            "routed": y if routed is None else routed,
        },
        outputs={"mixed": ((B, S, N, D), mx.float32)},
        grid=(B * S * -(-D // threads) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template={
            "N": N,
            "D": D,
            "EXPERTS": 0 if routed is None else sizes["k"],
            "THREADS": threads,
            "OFFICIAL": official,
        },
    )
    return mixed
