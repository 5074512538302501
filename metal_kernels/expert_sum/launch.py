"""Geometry of the sum of expert outputs."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.sources import Prepared

_THREADS = 256


def expert_sum(call: Call) -> mx.array:
    """routed [M, k, D], shared [M, D] -> [M, D]; one launch.

    Reads `4 M D (k + 1)` bytes and writes `4 M D`, 16 at a time where D is a multiple of eight.
    """
    (total,) = call.keep(_launch)(call.arrays["routed"], call.arrays["shared"])
    return total


def _launch(call: Call) -> Prepared:
    M, D = call.sizes["M"], call.sizes["D"]
    # Not four: an array of fewer than eight numbers is `constant`, which the wide load is not for.
    wide = 4 if D % 8 == 0 else 1
    return Prepared(
        call.backend,
        "expert_sum",
        arrays=("routed", "shared"),
        outputs={"total": ((M, D), mx.float32)},
        grid=(D // wide, M, 1),
        threadgroup=(min(_THREADS, D // wide), 1, 1),
        template={"WIDE": wide, "OFFICIAL": call.options["official"]},
    )
