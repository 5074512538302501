"""The rules of the launch table: kernels per primitive, and how its outputs lie in memory.

Read off MLX's sources, as `launch_table.py` says primitive by primitive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

from benchmarks import layouts
from benchmarks.layouts import Layout
from dsv4_mlx.tracing import stand_ins

STAND_IN = f"custom_kernel_{stand_ins.STAND_IN}"
"""Traced in place of an operation that MLX takes apart where there is no Metal."""


@dataclass(frozen=True)
class Node:
    """One primitive of a traced graph.

    `outputs` are laid out as new arrays; a rule says what they become. `donates`: the memory of the
    first input is used by nothing after this node, so that MLX may write into it.
    """

    name: str
    arguments: Sequence[Any]
    inputs: Sequence[Layout]
    outputs: Sequence[Layout]
    donates: bool = False


Counted = tuple[int, Sequence[Layout]]
"""Launches, and how the outputs lie in memory."""
Rule = Callable[[Node], Counted]


# Views


def same(node: Node) -> Counted:
    """Every output is the input of the same place."""
    pairs = zip(node.inputs, node.outputs, strict=False)
    return 0, [layouts.view(source, output, source.strides) for source, output in pairs]


def broadcast(node: Node) -> Counted:
    return 0, [layouts.broadcast(node.inputs[0], node.outputs[0])]


def transpose(node: Node) -> Counted:
    return 0, [layouts.transposed(node.inputs[0], node.outputs[0], node.arguments[0])]


def cut(node: Node) -> Counted:
    return 0, [layouts.sliced(node.inputs[0], node.outputs[0], node.arguments[2])]


def split(node: Node) -> Counted:
    source = node.inputs[0]
    return 0, [layouts.view(source, output, source.strides) for output in node.outputs]


def expand(node: Node) -> Counted:
    return 0, [layouts.expanded(node.inputs[0], node.outputs[0], node.arguments[0])]


def squeeze(node: Node) -> Counted:
    return 0, [layouts.squeezed(node.inputs[0], node.outputs[0], node.arguments[0])]


def as_strided(node: Node) -> Counted:
    return 0, [layouts.view(node.inputs[0], node.outputs[0], node.arguments[1])]


def reshape(node: Node) -> Counted:
    viewed = layouts.reshaped(node.inputs[0], node.outputs[0])
    return (1, node.outputs) if viewed is None else (0, [viewed])


def retype(node: Node) -> Counted:
    source, output = node.inputs[0], node.outputs[0]
    before, after = source.dtype.size, output.dtype.size
    dense = bool(source.strides) and source.strides[-1] == 1
    if before == after or source.row_contiguous or (after < before and dense):
        strides = [stride * before // after for stride in source.strides[:-1]]
        return 0, [layouts.view(source, output, [*strides, *source.strides[-1:]])]
    return 1, node.outputs


_SPARE_BYTES = 16384


def contiguous(node: Node) -> Counted:
    source = node.inputs[0]
    fits = source.buffer_bytes <= source.nbytes + _SPARE_BYTES
    if fits and source.row_contiguous:
        return same(node)
    return 1, node.outputs


# Elements


def elementwise(node: Node) -> Counted:
    """One kernel for any strides; operands in one run of memory pass their order of axes on."""
    first, ordered = _leading_operand(node.inputs)
    if first is None or not ordered or first.shape != node.outputs[0].shape:
        return 1, node.outputs
    return 1, [layouts.like(first, output) for output in node.outputs]


def _leading_operand(inputs: Sequence[Layout]) -> tuple[Layout | None, bool]:
    """The operand whose strides the result may get, and whether it gets them."""
    wide = [source for source in inputs if source.extent > 1]
    if not wide:
        return None, False
    if len(wide) == 1 and len(inputs) < 3:
        return wide[0], wide[0].contiguous
    rows = all(source.row_contiguous for source in wide)
    columns = all(source.column_contiguous for source in wide)
    return wide[0], len(wide) == len(inputs) and (rows or columns)


def fixed(count: int) -> Rule:
    return lambda node: (count, node.outputs)


# Joining and updating


def concatenate(node: Node) -> Counted:
    return sum(1 for source in node.inputs if source.size), node.outputs


def _copy_before_update(node: Node) -> int:
    source = node.inputs[0]
    return 0 if node.donates and source.contiguous else 1


def slice_update(node: Node) -> Counted:
    if not node.inputs[1].size:
        return same(node)
    return 1 + _copy_before_update(node), node.outputs


def dynamic_slice_update(node: Node) -> Counted:
    if not node.inputs[1].size:
        return same(node)
    strided = not node.inputs[2].row_contiguous
    return 2 + strided + _copy_before_update(node), node.outputs


def dynamic_slice(node: Node) -> Counted:
    return 2 + (not node.inputs[1].row_contiguous), node.outputs


def scatter(node: Node) -> Counted:
    return 2 if node.inputs[-1].size else 1, node.outputs


def scatter_axis(node: Node) -> Counted:
    return 1 + _copy_before_update(node), node.outputs


# Reductions and sorting

_ONE_PASS_ELEMENTS = 4096


def reduce(node: Node) -> Counted:
    source = node.inputs[0]
    count = 1 + (not source.contiguous)
    if node.outputs[0].size == 1 and source.size > _ONE_PASS_ELEMENTS:
        count += 1
    return count, node.outputs


def rows(node: Node) -> Counted:
    """Kernels that walk the last axis copy rows that are strided."""
    source = node.inputs[0]
    dense = source.contiguous and (not source.strides or source.strides[-1] == 1)
    return 1 + (not dense), node.outputs


def scan(node: Node) -> Counted:
    return 1 + (not node.inputs[0].contiguous), node.outputs


def sort(node: Node) -> Counted:
    source = node.inputs[0]
    axis = node.arguments[-1] if node.arguments else -1
    blocks = ceil(source.shape[axis] / _sort_block(source.shape[axis], source.dtype.size))
    if blocks <= 1:
        return 1, node.outputs
    # The blocks, then a partition and a merge per doubling, then a copy out of the scratch memory.
    return 2 + 2 * ceil(log2(blocks)), node.outputs


def _sort_block(length: int, itemsize: int) -> int:
    """Elements that one threadgroup sorts: four per thread."""
    wanted = ceil(length / 4)
    threads = next((n for n in (32, 64, 128, 256) if wanted <= n), 512)
    return 4 * (256 if threads == 512 and itemsize > 4 else threads)


# Products


def _operand_copies(node: Node, vectors: tuple[bool, bool]) -> int:
    """Dense operands may be transposed; one that is a vector may not have gaps between rows."""
    return sum(
        not _multiplies(source, vector)
        for source, vector in zip(node.inputs[:2], vectors, strict=True)
    )


def _multiplies(source: Layout, vector: bool) -> bool:
    if len(source.shape) < 2:
        return source.row_contiguous
    row, column = source.strides[-2:]
    rows, columns = source.shape[-2:]
    return (column == 1 and (not vector or row == columns)) or (
        row == 1 and (not vector or column == rows)
    )


_SPLIT_K_TILES = 2048


def matmul(node: Node) -> Counted:
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    M, K = a.shape[-2:]
    N = b.shape[-1]
    count = 1 + _operand_copies(node, (M == 1, N == 1))
    tiles = ceil(M / 16) * ceil(N / 16)
    single = output.size == M * N
    if min(M, N) > 1 and single and tiles <= _SPLIT_K_TILES and K // 16 >= 8 and max(M, N) <= K:
        count += 1  # the parts are summed by a second kernel
    return count, node.outputs


def gather_matmul(node: Node) -> Counted:
    M, N = node.inputs[0].shape[-2], node.inputs[1].shape[-1]
    return 1 + _operand_copies(node, (M == 1, N == 1)), node.outputs


_VECTOR_ROWS = 6
"""Rows of x below which every Apple GPU takes the vector kernel; others take it for more rows."""


def quantized_matmul(node: Node) -> Counted:
    x, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    count = 1 + sum(not source.is_matrix for source in node.inputs)
    flat = len(weight.shape) == 2 and x.row_contiguous
    rows = x.size // x.shape[-1] if flat else x.shape[-2]
    if rows >= _VECTOR_ROWS and ceil(rows / 32) * ceil(output.shape[-1] / 32) <= 256:
        count += 1  # split over the inputs, summed by a second kernel
    return count, node.outputs


def gather_quantized(node: Node) -> Counted:
    return 1 + sum(not source.is_matrix for source in node.inputs[:-2]), node.outputs


def attention(node: Node) -> Counted:
    keys = node.inputs[1].shape[-2]
    return 1 if keys < 1024 else 2, node.outputs


def hadamard(node: Node) -> Counted:
    n = node.inputs[0].shape[-1]
    return 1 + (not node.inputs[0].row_contiguous) + bool(n & (n - 1)), node.outputs


# Custom kernels: [name, text, grid, threadgroup, shape infos, ensure_row_contiguous, init value...]


def custom_kernel(node: Node) -> Counted:
    copies = sum(not source.row_contiguous for source in node.inputs) if node.arguments[9] else 0
    filled = len(node.outputs) if node.arguments[10] not in ([], None) else 0
    return 1 + copies + filled, node.outputs


def compiled(node: Node) -> Counted:
    """The name carries what the region was counted to be, see `benchmarks/mlx_vlm_graph.py`."""
    return int(str(node.arguments[0]).removeprefix(STAND_IN).split("_")[1]), node.outputs
