"""Few rows, each times the packed matrices that are chosen for it."""

import mlx.core as mx

from metal_kernels.packed_matvec.reference import unpacked


def expert_matvec(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    experts: mx.array,
    biases: mx.array | None = None,
    *,
    bits: int,
    group_size: int,
) -> mx.array:
    """Rows times a stack of E packed matrices [E, out, in]: experts [M, k] -> [M, k, out] float32.

    x [X, in] float32 has a row for each token (X = M) or one for each choice (X = M k); formats are
    those of `packed_matvec`. Experts are below E. NaN in a row of x reaches its own results alone.
    """
    M, k = experts.shape
    chosen = experts.reshape(-1)
    matrices = unpacked(
        codes[chosen],
        scales[chosen],
        None if biases is None else biases[chosen],
        bits=bits,
        group_size=group_size,
    )
    rows = mx.repeat(x, M * k // x.shape[0], axis=0)
    return (rows[:, None] @ matrices.swapaxes(1, 2)).reshape(M, k, -1)
