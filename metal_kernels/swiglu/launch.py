"""Geometry of the clamped SwiGLU of routed and shared experts."""

import math

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.sources import launch

_THREADS = 256


def swiglu(call: Call) -> mx.array | tuple[mx.array, mx.array]:
    """gate_up [R, 2 I], weights [R], shared [M, 2 J] -> [R, I], and [M, J]; one launch.

    Reads `8 (R I + M J)` bytes and writes half as many, each once; 16 bytes at a time where I and J
    are multiples of four.
    """
    rows, width = call.sizes["R"], call.sizes["X"] // 2
    # Without a shared expert the first routed row stands in for one, and its result is dropped.
    shared_rows, shared_width = call.sizes.get("M", 1), call.sizes.get("Y", 2 * width) // 2
    wide = 4 if width % 4 == 0 and shared_width % 4 == 0 else 1
    chunks = max(width, shared_width) // wide
    activated, shared_activated = launch(
        call.backend,
        "swiglu",
        inputs={
            **dict.fromkeys(("gate_up", "weights", "shared"), call.arrays["gate_up"]),
            **call.arrays,
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
    return (activated, shared_activated) if "shared" in call.arrays else activated
