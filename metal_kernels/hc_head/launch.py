"""Geometry of the hyper head: the mix of hc_pre, then one threadgroup per token."""

import mlx.core as mx

from metal_kernels.hc_pre.launch import check_rows, mix, second_template, threads_per_token
from metal_kernels.registry import kernels
from metal_kernels.sources import launch


def hc_head(
    backend: str,
    streams: mx.array,
    fn: mx.array,
    base: mx.array,
    scale: mx.array,
    norm_weight: mx.array,
    *,
    hc_eps: float,
    norm_eps: float,
    official: bool,
) -> mx.array:
    """Streams [B, S, N, D] -> RMS-normed hidden [B, S, D]: two launches.

    Both read the streams, `4 B S N D` bytes; the first reads fn, `4 N N D` bytes, once for every
    16 tokens, and the second writes `4 B S D` bytes.
    """
    sizes = kernels()["hc_head"].check(
        {"streams": streams, "fn": fn, "base": base, "scale": scale, "norm_weight": norm_weight}
    )
    B, S, N, D = (sizes[letter] for letter in "BSND")
    check_rows("hc_head", fn, N, D, rows=N)
    threads = threads_per_token(D)
    partials = mix(backend, streams, fn)
    (hidden,) = launch(
        backend,
        "hc_head",
        inputs={
            "streams": streams,
            "partials": partials,
            "base": base,
            "scale": scale,
            "norm_weight": norm_weight,
            "hc_eps": float(hc_eps),
            "norm_eps": float(norm_eps),
        },
        outputs={"hidden": ((B, S, D), mx.float32)},
        grid=(B * S * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template=second_template(partials, N, D, official),
    )
    return hidden
