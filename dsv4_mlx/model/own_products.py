"""Products of few rows of which each has the bits that it has alone, by kernels of our own (GPU).

MLX multiplies one row and several by different kernels, whose sums have other orders.
"""

import mlx.core as mx

from dsv4_mlx.model.packed import Matrix, Packed
from metal_kernels.ops import Ops


def serve(rows: int, ops: Ops) -> bool:
    """Whether products of so many rows are these."""
    return rows <= ops.exact_rows > 1


def packed(x: mx.array, matrix: Packed, ops: Ops) -> mx.array:
    """x [M, g, in] times g packed matrices, one after the other [g out, in] -> [M, g out]."""
    packing = matrix.packing
    bits, group = packing.bits, packing.group_size
    if matrix.biases is None:  # an input that is left out costs less Python than one that is None
        return ops.packed_matvec(x, matrix.weight, matrix.scales, bits=bits, group_size=group)
    return ops.packed_matvec(
        x, matrix.weight, matrix.scales, matrix.biases, bits=bits, group_size=group
    )


def grouped(x: mx.array, matrix: Matrix, ops: Ops) -> mx.array:
    """The same of any weight; a dense one takes a launch for each group."""
    if isinstance(matrix, Packed):
        return packed(x, matrix, ops)
    groups, width = x.shape[1:]
    stack = matrix.reshape(groups, -1, width)
    return mx.concatenate([ops.dense_matvec(x[:, g], stack[g]) for g in range(groups)], axis=-1)


def chosen(x: mx.array, experts: mx.array, matrices: Packed, ops: Ops) -> mx.array:
    """x [M, in] or [M k, in], experts [M, k] of packed ones [E, out, in] -> [M, k, out]."""
    packing = matrices.packing
    bits, group, biases = packing.bits, packing.group_size, matrices.biases
    stacks = (matrices.weight, matrices.scales, experts)
    if biases is None:
        return ops.expert_matvec(x, *stacks, bits=bits, group_size=group)
    return ops.expert_matvec(x, *stacks, biases, bits=bits, group_size=group)
