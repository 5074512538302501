"""Geometry of the hyper head: the mix of hc_pre, then one threadgroup per token."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.hc_pre.launch import check_rows, mix, second_template, threads_per_token
from metal_kernels.sources import launch


def hc_head(call: Call) -> mx.array:
    """Streams [B, S, N, D] -> RMS-normed hidden [B, S, D]: two launches.

    Both read the streams, `4 B S N D` bytes; the first reads fn, `4 N N D` bytes, once for every
    16 tokens, and the second writes `4 B S D` bytes.
    """
    arrays, options = call.arrays, call.options
    B, S, N, D = arrays["streams"].shape
    check_rows(call, N)
    threads = threads_per_token("hc_head", D)
    partials = mix(call)
    (hidden,) = launch(
        call.backend,
        "hc_head",
        inputs={
            "streams": arrays["streams"],
            "partials": partials,
            "base": arrays["base"],
            "scale": arrays["scale"],
            "norm_weight": arrays["norm_weight"],
            "hc_eps": float(options["hc_eps"]),
            "norm_eps": float(options["norm_eps"]),
        },
        outputs={"hidden": ((B, S, D), mx.float32)},
        grid=(B * S * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template=second_template("hc_head", call, partials),
    )
    return hidden
