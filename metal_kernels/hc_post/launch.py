"""Geometry of the expansion after a sublayer: one launch, a thread for each channel of a token."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.shared.threadgroups import MOST_THREADS
from metal_kernels.sources import Prepared


def hc_post(call: Call) -> mx.array:
    """y [B, S, D], streams [B, S, N, D], routed [B, S, k, D] -> [B, S, N, D]: one launch.

    It reads `4 B S (k + 1 + N) D` bytes and writes `4 B S N D`, each value once.
    """
    arrays = call.arrays
    # Without experts the text does not read `routed`: any array stands in for it.
    y, routed = arrays["y"], arrays.get("routed", arrays["y"])
    (mixed,) = call.keep(_launch)(y, arrays["streams"], arrays["post"], arrays["comb"], routed)
    return mixed


def _launch(call: Call) -> Prepared:
    B, S, N, D = call.arrays["streams"].shape
    threads = min(MOST_THREADS["hc_post"], -(-D // 32) * 32)
    return Prepared(
        call.backend,
        "hc_post",
        arrays=("y", "streams", "post", "comb", "routed"),
        outputs={"mixed": ((B, S, N, D), mx.float32)},
        grid=(B * S * -(-D // threads) * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template={
            "N": N,
            "D": D,
            "EXPERTS": call.sizes.get("k", 0),
            "THREADS": threads,
            "OFFICIAL": call.options["official"],
        },
    )
