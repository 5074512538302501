"""Products with dense and packed weights, and how a plain CPU does them fast.

On a GPU these are MLX's own kernels, or `own_products` where a plan asks for exact rows. On the CPU
three facts decide (measured, see docs/LOG.md):
packed products accumulate in the dtype of the activations, so those are float32; one product runs
on one thread, so large weights are halved over two streams; and packed products cost time per row,
so that above a few rows it is cheaper to unpack a tile of the weight and let BLAS multiply it.
"""

from functools import cache

import mlx.core as mx
import numpy as np

from dsv4_mlx.model import own_products
from dsv4_mlx.model.packed import Matrix, Packed
from metal_kernels.ops import Ops

# Rows above which a tile is unpacked for BLAS instead of multiplied packed, per mode (CPU).
CPU_CROSSOVER_ROWS = {"mxfp4": 32, "mxfp8": 1}
_OTHER_CROSSOVER_ROWS = 8
# Weights of fewer elements are not worth a second stream's hand-off (about 0.1 ms).
_SPLIT_ELEMENTS = 1 << 20
# The same for dense weights, whose products BLAS computes several times faster.
_DENSE_SPLIT_ELEMENTS = 1 << 22
# Elements of one unpacked tile: 32 MiB of float32 scratch.
_TILE_ELEMENTS = 1 << 23

# Rows that a product with a dense weight reads the weight once for (GPU).
_MATVEC_ROWS = 8

Bounds = list[tuple[int, int, int]]
"""(expert, start, stop) of every expert that has rows, in the order of the rows."""


@cache
def _second_stream() -> mx.ThreadLocalStream:
    return mx.new_thread_local_stream(mx.cpu)


def on_cpu(ops: Ops | None = None) -> bool:
    """Whether products run on the CPU: as the plan says, without one as MLX's default device."""
    return mx.default_device() == mx.cpu if ops is None else ops.backend == "cpu"


def product(x: mx.array, matrix: Matrix, ops: Ops | None = None) -> mx.array:
    """`x W^T`: [..., in], [out, in] -> [..., out], float32."""
    if (ops is not None and ops.backend != "cpu") or not on_cpu(ops):
        return _gpu_product(x, matrix, ops)
    if isinstance(matrix, mx.array):
        return _dense(x, matrix.astype(mx.float32))
    rows = x.size // x.shape[-1]
    if rows > CPU_CROSSOVER_ROWS.get(matrix.packing.mode, _OTHER_CROSSOVER_ROWS):
        return _unpacked_product(x, matrix)
    out = matrix.weight.shape[0]
    if out * x.shape[-1] < _SPLIT_ELEMENTS:
        return matrix.multiply(x)
    half = out // 2
    second = matrix[half:].multiply(x, stream=_second_stream())
    return mx.concatenate([matrix[:half].multiply(x), second], axis=-1)


def _gpu_product(x: mx.array, matrix: Matrix, ops: Ops | None) -> mx.array:
    rows = x.size // x.shape[-1]
    if isinstance(matrix, Packed):
        if ops is None or not own_products.serve(rows, ops):
            return matrix.multiply(x)
        own = own_products.packed(x.reshape(rows, 1, -1), matrix, ops)
        return own.reshape(*x.shape[:-1], -1)
    if ops is None or rows > _MATVEC_ROWS:
        return x @ matrix.astype(mx.float32).T
    return ops.dense_matvec(x.reshape(rows, -1), matrix).reshape(*x.shape[:-1], -1)


def _dense(x: mx.array, weight: mx.array) -> mx.array:
    if weight.size < _DENSE_SPLIT_ELEMENTS:
        return x @ weight.T
    half = weight.shape[0] // 2
    second = mx.matmul(x, weight[half:].T, stream=_second_stream())
    return mx.concatenate([x @ weight[:half].T, second], axis=-1)


def _unpacked_product(x: mx.array, matrix: Packed) -> mx.array:
    """Unpack tile after tile of rows into scratch, alternating the streams, and multiply."""
    out, width = matrix.weight.shape[0], x.shape[-1]
    step = max(1, _TILE_ELEMENTS // width)
    if out * width >= _SPLIT_ELEMENTS:
        step = min(step, -(-out // 2))
    products: list[mx.array] = []
    for start in range(0, out, step):
        stream = _second_stream() if len(products) % 2 else None
        tile = matrix[start : start + step].after(products[-2:-1])
        products.append(mx.matmul(x, tile.unpack(stream).T, stream=stream))
    return _joined(products, axis=-1)


def grouped(x: mx.array, matrix: Matrix, ops: Ops | None = None) -> mx.array:
    """One product per group: x [..., g, in], W [g * out, in] -> [..., g, out], float32."""
    groups = x.shape[-2]
    if isinstance(matrix, mx.array) or not on_cpu(ops):
        M = x.size // (groups * x.shape[-1])
        if ops is not None and own_products.serve(M, ops):
            own = own_products.grouped(x.reshape(M, groups, -1), matrix, ops)
            return own.reshape(*x.shape[:-1], -1)
        # [g, M, in]; for one row without swapped strides, for which MLX would copy it.
        rows = x.reshape(groups, 1, -1) if M == 1 else x.reshape(M, groups, -1).swapaxes(0, 1)
        if isinstance(matrix, mx.array):
            weight = matrix.astype(mx.float32).reshape(groups, -1, x.shape[-1])
            products = rows @ weight.swapaxes(1, 2)
        else:
            products = matrix.by_group(groups).multiply(rows)
        return products.swapaxes(0, 1).reshape(*x.shape[:-1], -1)
    out = matrix.weight.shape[0] // groups
    parts = [product(x[..., g, :], matrix[g * out : (g + 1) * out], ops) for g in range(groups)]
    return mx.stack(parts, axis=-2)


def gathered(
    x: mx.array,
    rows: mx.array,
    experts: mx.array,
    matrices: Matrix,
    ops: Ops | None = None,
) -> mx.array:
    """Few rows, each with its own expert: x [M, in], W [E, out, in] -> [R, out], float32.

    `rows` [R] says which row of x, `experts` [R] which matrix. On the CPU the R products are
    halved over two streams.
    """
    if isinstance(matrices, mx.array):
        transposed = matrices.astype(mx.float32).swapaxes(-1, -2)
        return mx.gather_mm(x[:, None, :], transposed, lhs_indices=rows, rhs_indices=experts)[:, 0]
    count = rows.shape[0]
    elements = matrices.weight.shape[1] * x.shape[-1] * count
    if not on_cpu(ops) or count < 2 or elements < _SPLIT_ELEMENTS:
        return matrices.gather(x, rows, experts)
    half = count // 2
    second = matrices.gather(x, rows[half:], experts[half:], stream=_second_stream())
    return mx.concatenate([matrices.gather(x, rows[:half], experts[:half]), second], axis=0)


def chosen(x: mx.array, experts: mx.array, matrices: Matrix, ops: Ops | None = None) -> mx.array:
    """Every row times the matrices chosen for it, one launch on a GPU.

    x [M, 1, in] (the same row for all) or [M, k, in], experts uint32 [M, k] -> [M, k, out].
    """
    M, each, width = x.shape
    if isinstance(matrices, Packed) and ops is not None and own_products.serve(M, ops):
        return own_products.chosen(x.reshape(M * each, width), experts, matrices, ops)
    # Not x[..., None, :]: MLX gives that axis stride 1 and would copy x to have a matrix.
    rows = x.reshape(M, each, 1, width)
    if isinstance(matrices, mx.array):
        weight = matrices.astype(mx.float32).swapaxes(-1, -2)
        product = mx.gather_mm(rows, weight, lhs_indices=_rows(M, each), rhs_indices=experts)
        return product[..., 0, :]
    return mx.gather_qmm(
        rows,
        matrices.weight,
        matrices.scales,
        matrices.biases,
        lhs_indices=_rows(M, each),
        rhs_indices=experts,
        transpose=True,
        **vars(matrices.packing),
    )[..., 0, :]


def in_order(x: mx.array, experts: mx.array, matrices: Matrix) -> mx.array:
    """Row r of x [R, in] times matrix `experts[r]`, experts uint32 [R] ascending -> [R, out]."""
    if isinstance(matrices, mx.array):
        weight = matrices.astype(mx.float32).swapaxes(-1, -2)
        return mx.gather_mm(x[:, None], weight, rhs_indices=experts, sorted_indices=True)[:, 0]
    return mx.gather_qmm(
        x[:, None],
        matrices.weight,
        matrices.scales,
        matrices.biases,
        rhs_indices=experts,
        transpose=True,
        sorted_indices=True,
        **vars(matrices.packing),
    )[:, 0]


@cache
def _rows(M: int, each: int) -> mx.array:
    """Row numbers [M, each], a constant: MLX would make them anew in every call."""
    return mx.array(np.arange(M * each, dtype=np.uint32).reshape(M, each))


def stacked_rows(matrices: list[Matrix]) -> Matrix | None:
    """The matrices one after the other; None where their formats differ."""
    first = matrices[0]
    if isinstance(first, mx.array):
        if any(not isinstance(m, mx.array) or m.dtype != first.dtype for m in matrices):
            return None
        return mx.concatenate([m for m in matrices if isinstance(m, mx.array)])
    packed = [m for m in matrices if isinstance(m, Packed) and m.packing == first.packing]
    if len(packed) < len(matrices):
        return None
    biases = [m.biases for m in packed if m.biases is not None]
    weight = mx.concatenate([m.weight for m in packed])
    scales = mx.concatenate([m.scales for m in packed])
    return Packed(weight, scales, mx.concatenate(biases) if biases else None, first.packing)


def sorted_by_expert(x: mx.array, bounds: Bounds, matrices: Matrix) -> mx.array:
    """Many rows sorted by expert, one product per expert: [R, in], [E, out, in] -> [R, out]."""
    products: list[mx.array] = []
    for expert, start, stop in bounds:
        matrix: Matrix = matrices[expert]
        if isinstance(matrix, Packed):
            matrix = matrix.after(products[-1:])
        products.append(product(x[start:stop], matrix))
    return _joined(products, axis=0)


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
