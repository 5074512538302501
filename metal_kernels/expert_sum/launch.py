"""Geometry of the sum of expert outputs."""

import mlx.core as mx

from metal_kernels.registry import kernels
from metal_kernels.sources import launch

_THREADS = 256


def expert_sum(backend: str, routed: mx.array, shared: mx.array, *, official: bool) -> mx.array:
    """routed [M, k, D], shared [M, D] -> [M, D]; one launch.

    Reads `4 M D (k + 1)` bytes and writes `4 M D`, 16 at a time where D is a multiple of eight.
    """
    sizes = kernels()["expert_sum"].check({"routed": routed, "shared": shared})
    M, D = sizes["M"], sizes["D"]
    # Not four: an array of fewer than eight numbers is `constant`, which the wide load is not for.
    wide = 4 if D % 8 == 0 else 1
    (total,) = launch(
        backend,
        "expert_sum",
        inputs={"routed": routed, "shared": shared},
        outputs={"total": ((M, D), mx.float32)},
        grid=(D // wide, M, 1),
        threadgroup=(min(_THREADS, D // wide), 1, 1),
        template={"WIDE": wide, "OFFICIAL": official},
    )
    return total
