"""Rotary embedding of the last dims, adjacent pairs, in float32: one rotation for all kernels."""

import mlx.core as mx


def rotate(x: mx.array, cos: mx.array, sin: mx.array, *, inverse: bool = False) -> mx.array:
    """Rotate the last `2 * cos.shape[-1]` dims of `x`; the dims before them carry no position.

    Pair i is dims (2i, 2i + 1) of the rotated part. `cos` and `sin` broadcast against
    `x[..., pairs]`; `inverse` rotates by the negative angle.
    """
    dims = 2 * cos.shape[-1]
    pairs = x[..., -dims:].reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    if inverse:
        sin = -sin
    rotated = mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    rotated = rotated.reshape(*x.shape[:-1], dims)
    if dims == x.shape[-1]:
        return rotated
    return mx.concatenate([x[..., :-dims], rotated], axis=-1)
