"""Clamped SwiGLU, optionally times the routing weight, before the down projection."""

import mlx.core as mx


def swiglu(
    gate_up: mx.array,
    weights: mx.array | None = None,
    shared: mx.array | None = None,
    *,
    limit: float,
) -> mx.array | tuple[mx.array, mx.array]:
    """gate_up [R, 2 I] (gate first), weights [R] -> [R, I] float32.

    With `shared` [M, 2 J], the shared expert's gates and ups, its [M, J] is a second result, of
    weight one. The gate is clamped from above only, up on both sides; `limit` 0 means no clamp.
    NaN in gate or up gives NaN there.
    """
    activated = _clamped(gate_up, limit)
    if weights is not None:
        activated = activated * weights[:, None]
    return activated if shared is None else (activated, _clamped(shared, limit))


def _clamped(gate_up: mx.array, limit: float) -> mx.array:
    gate, up = mx.split(gate_up, 2, axis=-1)
    if limit:
        gate = mx.minimum(gate, limit)
        up = mx.clip(up, -limit, limit)
    return gate * mx.sigmoid(gate) * up
