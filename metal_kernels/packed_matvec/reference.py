"""Product of few rows with a packed weight, accumulated in float32."""

import mlx.core as mx


def packed_matvec(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    *,
    bits: int,
    group_size: int,
) -> mx.array:
    """x [M, g, in] float32 times a weight [N, in] as MLX packs it -> [M, N] float32.

    Codes uint32 [N, in bits / 32]. With biases the mode is affine, scales and biases [N, in /
    group_size]; without it is mxfp4 or mxfp8 by `bits`, scales uint8. The weight is g matrices of N
    / g rows, one after the other, each times its own rows of x. NaN in a row of x reaches what it
    is multiplied by and nothing else.
    """
    weight = unpacked(codes, scales, biases, bits=bits, group_size=group_size)
    M, g, width = x.shape
    product = x.swapaxes(0, 1) @ weight.reshape(g, -1, width).swapaxes(1, 2)
    return product.swapaxes(0, 1).reshape(M, -1)


def unpacked(
    codes: mx.array, scales: mx.array, biases: mx.array | None, *, bits: int, group_size: int
) -> mx.array:
    """The float32 values of a packed weight of any dimensions."""
    mode = f"mxfp{bits}" if biases is None else "affine"
    if biases is not None:  # else MLX would round to their dtype
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(
        codes, scales, biases, group_size=group_size, bits=bits, mode=mode, dtype=mx.float32
    )
