"""Rows in the order of their experts, each times its expert's MXFP4 matrix."""

import mlx.core as mx


def expert_matmul(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    experts: mx.array,
    rows: mx.array | None = None,
) -> mx.array:
    """x [M, in] float32, codes uint32 [E, out, in / 8] and scales uint8 [E, out, in / 32] as MLX
    packs MXFP4, experts [R] ascending and below E -> [R, out] float32.

    Row r of the result is row `rows[r]` of x, row r without `rows`, times the matrix `experts[r]`,
    whose values enter exactly. NaN in a row of x reaches the results of that row alone.
    """
    own = x if rows is None else x[rows]
    product = mx.gather_qmm(
        own[:, None],
        codes,
        scales,
        rhs_indices=experts,
        transpose=True,
        group_size=32,
        bits=4,
        mode="mxfp4",
        sorted_indices=True,
    )
    return product[:, 0]
