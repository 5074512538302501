"""Geometry of the clamped SwiGLU of routed and shared experts."""

import math

import mlx.core as mx

from metal_kernels.registry import kernels
from metal_kernels.sources import launch

_THREADS = 256


def swiglu(
    backend: str,
    gate_up: mx.array,
    weights: mx.array | None = None,
    shared: mx.array | None = None,
    *,
    limit: float,
) -> mx.array | tuple[mx.array, mx.array]:
    """gate_up [R, 2 I], weights [R], shared [M, 2 J] -> [R, I], and [M, J]; one launch.

    Reads `8 (R I + M J)` bytes and writes half as many, each once; 16 bytes at a time where I and J
    are multiples of four.
    """
    arguments = {"gate_up": gate_up, "weights": weights, "shared": shared}
    sizes = kernels()["swiglu"].check(arguments)
    rows, width = sizes["R"], sizes["X"] // 2
    # Without a shared expert the first routed row stands in for one, and its result is dropped.
    shared_rows, shared_width = (sizes["M"], sizes["Y"] // 2) if shared is not None else (1, width)
    wide = 4 if width % 4 == 0 and shared_width % 4 == 0 else 1
    chunks = max(width, shared_width) // wide
    activated, shared_activated = launch(
        backend,
        "swiglu",
        inputs={
            "gate_up": gate_up,
            "weights": gate_up if weights is None else weights,
            "shared": gate_up if shared is None else shared,
            "shared_rows": shared_rows,
            "limit": float(limit) or math.inf,
        },
        outputs={
            "activated": ((rows, width), mx.float32),
            "shared_activated": ((shared_rows, shared_width), mx.float32),
        },
        grid=(chunks, rows + shared_rows, 1),
        threadgroup=(min(_THREADS, chunks), 1, 1),
        template={"WIDE": wide, "WEIGHTED": weights is not None},
    )
    return activated if shared is None else (activated, shared_activated)
