"""Product of few rows with a dense weight, accumulated in float32."""

import mlx.core as mx


def dense_matvec(x: mx.array, weight: mx.array) -> mx.array:
    """x [M, in], weight [out, in] bfloat16 or float32 -> `x W^T` [M, out] float32.

    The weight's values enter exactly. NaN in a row of x reaches that row alone, NaN in a row of
    the weight that output alone.
    """
    return x.astype(mx.float32) @ weight.astype(mx.float32).T
