"""Clamped SwiGLU, optionally times the routing weight, before the down projection."""

import mlx.core as mx


def swiglu(gate_up: mx.array, weights: mx.array | None = None, *, limit: float) -> mx.array:
    """gate_up [M, 2 I] (gate first), weights [M] -> [M, I] float32.

    The gate is clamped from above only, up on both sides; `limit` 0 means no clamp.
    """
    gate, up = mx.split(gate_up, 2, axis=-1)
    if limit:
        gate = mx.minimum(gate, limit)
        up = mx.clip(up, -limit, limit)
    activated = gate * mx.sigmoid(gate) * up
    return activated if weights is None else activated * weights[:, None]
