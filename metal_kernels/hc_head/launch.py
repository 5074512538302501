"""Geometry of the hyper head: the mix of hc_pre, then one threadgroup per token."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.hc_pre.launch import check_rows, mix, second_template, threads_per_token
from metal_kernels.sources import Prepared


def hc_head(call: Call) -> mx.array:
    """Streams [B, S, N, D] -> RMS-normed hidden [B, S, D]: two launches.

    Both read the streams, `4 B S N D` bytes; the first reads fn, `4 N N D` bytes, once for every
    16 tokens, and the second writes `4 B S D` bytes.
    """
    second, arrays = call.keep(_second), call.arrays
    (hidden,) = second(
        arrays["streams"], mix(call), arrays["base"], arrays["scale"], arrays["norm_weight"]
    )
    return hidden


def _second(call: Call) -> Prepared:
    B, S, N, D = call.arrays["streams"].shape
    check_rows(call, N)
    threads, options = threads_per_token("hc_head", D), call.options
    return Prepared(
        call.backend,
        "hc_head",
        arrays=("streams", "partials", "base", "scale", "norm_weight"),
        scalars={
            "hc_eps": float(options["hc_eps"]),
            "norm_eps": float(options["norm_eps"]),
        },
        outputs={"hidden": ((B, S, D), mx.float32)},
        grid=(B * S * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template=second_template("hc_head", call),
    )
