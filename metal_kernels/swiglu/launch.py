"""Geometry of the clamped SwiGLU of routed and shared experts."""

import math

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.sources import Prepared

_THREADS = 256


def swiglu(call: Call) -> mx.array | tuple[mx.array, mx.array]:
    """gate_up [R, 2 I], weights [R], shared [M, 2 J] -> [R, I], and [M, J]; one launch.

    Reads `8 (R I + M J)` bytes and writes half as many, each once; 16 bytes at a time where I and J
    are multiples of four.
    """
    gate_up, arrays = call.arrays["gate_up"], call.arrays
    activated, shared = call.keep(_launch)(
        gate_up, arrays.get("weights", gate_up), arrays.get("shared", gate_up)
    )
    return (activated, shared) if "shared" in arrays else activated


def _launch(call: Call) -> Prepared:
    rows, width = call.sizes["R"], call.sizes["X"] // 2
    # Without a shared expert the first routed row stands in for one, and its result is dropped.
    shared_rows, shared_width = call.sizes.get("M", 1), call.sizes.get("Y", 2 * width) // 2
    wide = 4 if width % 4 == 0 and shared_width % 4 == 0 else 1
    chunks = max(width, shared_width) // wide
    return Prepared(
        call.backend,
        "swiglu",
        arrays=("gate_up", "weights", "shared"),
        scalars={
            "shared_rows": shared_rows,
            "limit": float(call.options["limit"]) or math.inf,
        },
        outputs={
            "activated": ((rows, width), mx.float32),
            "shared_activated": ((shared_rows, shared_width), mx.float32),
        },
        grid=(chunks, rows + shared_rows, 1),
        threadgroup=(min(_THREADS, chunks), 1, 1),
        template={"WIDE": wide, "WEIGHTED": "weights" in call.arrays},
    )
