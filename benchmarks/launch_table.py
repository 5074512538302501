"""How many Metal kernels MLX launches for each primitive, and why.

    python -m benchmarks.launch_table > docs/launches.md

writes the table. It is read off MLX's sources (mlx/backend/metal and mlx/backend/gpu, 2026; MLX
0.32): each row names the file. Where the number depends on sizes or strides the row has a function.
A primitive without a row is an error, so that nothing is left out of a count. Arrays without
elements launch nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

from benchmarks import layouts
from benchmarks.layouts import Layout
from dsv4_mlx import stand_ins


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


@dataclass(frozen=True)
class Row:
    """Primitives that are counted alike; `launches` and `reason` are for readers."""

    names: tuple[str, ...]
    launches: str
    reason: str
    rule: Rule


class UnknownPrimitive(LookupError):
    """The table has no row for a primitive."""


def launches(node: Node) -> Counted:
    """Kernels that MLX launches for `node` on Metal."""
    name = row_name(node)
    row = ROWS.get(name)
    if row is None:
        raise UnknownPrimitive(
            f"expected a primitive of benchmarks/launch_table.py but found {name}; read how MLX "
            "evaluates it on Metal and add a row"
        )
    count, outputs = row.rule(node)
    if not any(output.size for output in node.outputs):
        count = 0
    return count, outputs


STAND_IN = f"custom_kernel_{stand_ins.STAND_IN}"
"""Traced in place of an operation that MLX takes apart where there is no Metal."""


def row_name(node: Node) -> str:
    """The name to look up: the primitive's, or that of the operation a stand-in stands for."""
    if node.name != "CustomKernel" or not node.arguments[0].startswith(STAND_IN):
        return node.name
    return str(node.arguments[0]).removeprefix(STAND_IN).split("_")[0]


# Views


def _same(node: Node) -> Counted:
    """Every output is the input of the same place."""
    pairs = zip(node.inputs, node.outputs, strict=False)
    return 0, [layouts.view(source, output, source.strides) for source, output in pairs]


def _broadcast(node: Node) -> Counted:
    return 0, [layouts.broadcast(node.inputs[0], node.outputs[0])]


def _transpose(node: Node) -> Counted:
    return 0, [layouts.transposed(node.inputs[0], node.outputs[0], node.arguments[0])]


def _slice(node: Node) -> Counted:
    return 0, [layouts.sliced(node.inputs[0], node.outputs[0], node.arguments[2])]


def _split(node: Node) -> Counted:
    source = node.inputs[0]
    return 0, [layouts.view(source, output, source.strides) for output in node.outputs]


def _expand(node: Node) -> Counted:
    return 0, [layouts.expanded(node.inputs[0], node.outputs[0], node.arguments[0])]


def _squeeze(node: Node) -> Counted:
    return 0, [layouts.squeezed(node.inputs[0], node.outputs[0], node.arguments[0])]


def _as_strided(node: Node) -> Counted:
    return 0, [layouts.view(node.inputs[0], node.outputs[0], node.arguments[1])]


def _reshape(node: Node) -> Counted:
    viewed = layouts.reshaped(node.inputs[0], node.outputs[0])
    return (1, node.outputs) if viewed is None else (0, [viewed])


def _retype(node: Node) -> Counted:
    source, output = node.inputs[0], node.outputs[0]
    before, after = source.dtype.size, output.dtype.size
    dense = bool(source.strides) and source.strides[-1] == 1
    if before == after or source.row_contiguous or (after < before and dense):
        strides = [stride * before // after for stride in source.strides[:-1]]
        return 0, [layouts.view(source, output, [*strides, *source.strides[-1:]])]
    return 1, node.outputs


_SPARE_BYTES = 16384


def _contiguous(node: Node) -> Counted:
    source = node.inputs[0]
    fits = source.buffer_bytes <= source.nbytes + _SPARE_BYTES
    if fits and source.row_contiguous:
        return _same(node)
    return 1, node.outputs


# Elements


def _elementwise(node: Node) -> Counted:
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


def _fixed(count: int) -> Rule:
    return lambda node: (count, node.outputs)


# Joining and updating


def _concatenate(node: Node) -> Counted:
    return sum(1 for source in node.inputs if source.size), node.outputs


def _copy_before_update(node: Node) -> int:
    source = node.inputs[0]
    return 0 if node.donates and source.contiguous else 1


def _slice_update(node: Node) -> Counted:
    if not node.inputs[1].size:
        return _same(node)
    return 1 + _copy_before_update(node), node.outputs


def _dynamic_slice_update(node: Node) -> Counted:
    if not node.inputs[1].size:
        return _same(node)
    strided = not node.inputs[2].row_contiguous
    return 2 + strided + _copy_before_update(node), node.outputs


def _dynamic_slice(node: Node) -> Counted:
    return 2 + (not node.inputs[1].row_contiguous), node.outputs


def _scatter(node: Node) -> Counted:
    return 2 if node.inputs[-1].size else 1, node.outputs


def _scatter_axis(node: Node) -> Counted:
    return 1 + _copy_before_update(node), node.outputs


# Reductions and sorting

_ONE_PASS_ELEMENTS = 4096


def _reduce(node: Node) -> Counted:
    source = node.inputs[0]
    count = 1 + (not source.contiguous)
    if node.outputs[0].size == 1 and source.size > _ONE_PASS_ELEMENTS:
        count += 1
    return count, node.outputs


def _rows(node: Node) -> Counted:
    """Kernels that walk the last axis copy rows that are strided."""
    source = node.inputs[0]
    dense = source.contiguous and (not source.strides or source.strides[-1] == 1)
    return 1 + (not dense), node.outputs


def _scan(node: Node) -> Counted:
    return 1 + (not node.inputs[0].contiguous), node.outputs


def _sort(node: Node) -> Counted:
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


def _matmul(node: Node) -> Counted:
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    M, K = a.shape[-2:]
    N = b.shape[-1]
    count = 1 + _operand_copies(node, (M == 1, N == 1))
    tiles = ceil(M / 16) * ceil(N / 16)
    single = output.size == M * N
    if min(M, N) > 1 and single and tiles <= _SPLIT_K_TILES and K // 16 >= 8 and max(M, N) <= K:
        count += 1  # the parts are summed by a second kernel
    return count, node.outputs


def _gather_matmul(node: Node) -> Counted:
    M, N = node.inputs[0].shape[-2], node.inputs[1].shape[-1]
    return 1 + _operand_copies(node, (M == 1, N == 1)), node.outputs


_VECTOR_ROWS = 6
"""Rows of x below which every Apple GPU takes the vector kernel; others take it for more rows."""


def _quantized_matmul(node: Node) -> Counted:
    x, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    count = 1 + sum(not source.is_matrix for source in node.inputs)
    flat = len(weight.shape) == 2 and x.row_contiguous
    rows = x.size // x.shape[-1] if flat else x.shape[-2]
    if rows >= _VECTOR_ROWS and ceil(rows / 32) * ceil(output.shape[-1] / 32) <= 256:
        count += 1  # split over the inputs, summed by a second kernel
    return count, node.outputs


def _gather_quantized(node: Node) -> Counted:
    return 1 + sum(not source.is_matrix for source in node.inputs[:-2]), node.outputs


def _attention(node: Node) -> Counted:
    keys = node.inputs[1].shape[-2]
    return 1 if keys < 1024 else 2, node.outputs


def _hadamard(node: Node) -> Counted:
    n = node.inputs[0].shape[-1]
    return 1 + (not node.inputs[0].row_contiguous) + bool(n & (n - 1)), node.outputs


# Custom kernels: [name, text, grid, threadgroup, shape infos, ensure_row_contiguous, init value...]


def _custom_kernel(node: Node) -> Counted:
    copies = sum(not source.row_contiguous for source in node.inputs) if node.arguments[9] else 0
    filled = len(node.outputs) if node.arguments[10] not in ([], None) else 0
    return 1 + copies + filled, node.outputs


def _compiled(node: Node) -> Counted:
    """The name carries what the region was counted to be, see `benchmarks/mlx_vlm_graph.py`."""
    return int(str(node.arguments[0]).removeprefix(STAND_IN).split("_")[1]), node.outputs


_UNARY = (
    *("Abs", "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTanh", "BitwiseInvert"),
    *("Ceil", "Conjugate", "Cos", "Cosh", "Erf", "ErfInv", "Exp", "Expm1", "Floor", "Imag"),
    *("Log", "Log1p", "LogicalNot", "Negative", "Real", "Round", "Sigmoid", "Sign"),
    *("Sin", "Sinh", "Sqrt", "Square", "Tan", "Tanh", "AsType"),
)
_BINARY = (
    *("Add", "ArcTan2", "BitwiseBinary", "Divide", "DivMod", "Equal", "FloorDivide", "Greater"),
    *("GreaterEqual", "Less", "LessEqual", "LogAddExp", "LogicalAnd", "LogicalOr", "Maximum"),
    *("Minimum", "Multiply", "NotEqual", "Power", "Remainder", "Subtract"),
)
ELEMENTWISE = frozenset((*_UNARY, *_BINARY, "Select"))
"""What `mx.compile` joins with its neighbours."""

TABLE = (
    Row(
        ("Copy", "CustomTransforms", "Depends", "NumberOfElements", "StopGradient"),
        "0",
        "the same memory under another name, or a number known on the host (common/common.cpp)",
        _same,
    ),
    Row(("Broadcast", "BroadcastAxes"), "0", "a view of stride 0 (gpu/primitives.cpp)", _broadcast),
    Row(("Transpose",), "0", "a view with permuted strides (gpu/primitives.cpp)", _transpose),
    Row(("Slice",), "0", "a view (gpu/slicing.cpp)", _slice),
    Row(("Split",), "0", "views (gpu/primitives.cpp)", _split),
    Row(("ExpandDims",), "0", "a view (gpu/primitives.cpp)", _expand),
    Row(("Squeeze",), "0", "a view (gpu/primitives.cpp)", _squeeze),
    Row(("AsStrided",), "0", "a view (gpu/primitives.cpp)", _as_strided),
    Row(
        ("Reshape", "Flatten", "Unflatten"),
        "0 or 1",
        "a view where the strides allow it, else a copy (gpu/copy.cpp reshape_gpu)",
        _reshape,
    ),
    Row(
        ("View",),
        "0 or 1",
        "a reinterpretation; other element sizes copy arrays with gaps (gpu/primitives.cpp)",
        _retype,
    ),
    Row(
        ("Contiguous",),
        "0 or 1",
        "nothing for an array in order whose memory has at most 16 KiB to spare, else a copy "
        "(gpu/primitives.cpp)",
        _contiguous,
    ),
    Row(
        (*_UNARY, *_BINARY, "Select"),
        "1",
        "one kernel for any strides (metal/unary.cpp, binary.cpp, ternary.cpp; AsType is a copy)",
        _elementwise,
    ),
    Row(("ToFP8", "FromFP8"), "1", "a unary kernel (metal/quantized.cpp)", _elementwise),
    Row(("Full",), "1", "fills new memory (gpu/primitives.cpp)", _fixed(1)),
    Row(("Arange",), "1", "fills new memory (metal/primitives.cpp)", _fixed(1)),
    Row(("RandomBits",), "1", "one kernel (metal/primitives.cpp)", _fixed(1)),
    Row(("Concatenate",), "1 per input", "copies each input to its place (metal/slicing.cpp)",
        _concatenate),
    Row(("Pad",), "2", "a fill, then a copy (gpu/slicing.cpp pad_gpu)", _fixed(2)),
    Row(
        ("SliceUpdate",),
        "1 or 2",
        "copies the rows; before it the whole array, unless its memory is free to be written "
        "(gpu/copy.cpp copy_gpu)",
        _slice_update,
    ),
    Row(
        ("DynamicSliceUpdate",),
        "2 or 3",
        "a kernel that computes the offset from the array of starts, then as SliceUpdate "
        "(metal/slicing.cpp compute_dynamic_offset)",
        _dynamic_slice_update,
    ),
    Row(("DynamicSlice",), "2", "the offset, then a copy (gpu/primitives.cpp)", _dynamic_slice),
    Row(("Gather", "GatherAxis"), "1", "one kernel for any strides (metal/indexing.cpp)",
        _fixed(1)),
    Row(("Scatter",), "2",
        "always copies the array first (metal/indexing.cpp)", _scatter),
    Row(("ScatterAxis",), "1 or 2",
        "copies the array first unless its memory is free (metal/indexing.cpp)", _scatter_axis),
    Row(
        ("Reduce",),
        "1 to 3",
        "one kernel; a copy before it where the input has gaps; a second pass where more than "
        "4,096 elements become one (metal/reduce.cpp). Second passes of very tall columns are "
        "not counted.",
        _reduce,
    ),
    Row(("ArgReduce",), "1", "one kernel for any strides (metal/primitives.cpp)", _fixed(1)),
    Row(
        ("Softmax", "LogSumExp"),
        "1 or 2",
        "one kernel over the last axis, a copy before it where rows have gaps (metal/softmax.cpp)",
        _rows,
    ),
    Row(("Scan",), "1 or 2",
        "one kernel, a copy before it where the input has gaps (metal/scan.cpp)", _scan),
    Row(
        ("Sort", "ArgSort", "Partition", "ArgPartition"),
        "1 or 2 + 2 log2(blocks)",
        "one kernel up to 2,048 elements per row; beyond, blocks of 2,048 are sorted, merged in "
        "pairs by two kernels per doubling, and copied out. Partitions are full sorts "
        "(metal/sort.cpp).",
        _sort,
    ),
    Row(
        ("Matmul",),
        "1 to 4",
        "a vector or matrix kernel; one copy per operand whose rows are neither consecutive nor "
        "transposed (a vector with gaps between rows counts as such); a second kernel where the "
        "inputs are split (metal/matmul.cpp)",
        _matmul,
    ),
    Row(("AddMM",), "1 to 4", "as Matmul (metal/matmul.cpp)", _matmul),
    Row(("GatherMM",), "1 to 3", "as Matmul, never split (metal/matmul.cpp)", _gather_matmul),
    Row(
        ("QuantizedMatmul",),
        "1 and more",
        "a vector kernel for few rows, else a matrix kernel that may be split; one copy per input "
        "whose last two axes are not a matrix without gaps, a single strided row included "
        "(metal/quantized.cpp ensure_row_contiguous_matrix)",
        _quantized_matmul,
    ),
    Row(
        ("GatherQMM",),
        "1 and more",
        "as QuantizedMatmul, never split; indices may have gaps. Missing lhs_indices appear as an "
        "Arange of their own (metal/quantized.cpp)",
        _gather_quantized,
    ),
    Row(("Quantize",), "1 and more", "one kernel, one copy per input with gaps "
        "(metal/quantized.cpp)", lambda node: (
            1 + sum(not source.row_contiguous for source in node.inputs), node.outputs)),
    Row(("Hadamard",), "1 to 3", "one kernel for a power of two, two for others, a copy where "
        "the input has gaps (metal/hadamard.cpp)", _hadamard),
    Row(
        ("CustomKernel",),
        "1 and more",
        "one kernel; one copy per input that is not in row order, one fill per output with an "
        "initial value (metal/custom_kernel.cpp)",
        _custom_kernel,
    ),
    Row(("RMSNorm", "LayerNorm"), "1 or 2", "mx.fast: one kernel, a copy before it where rows have "
        "gaps (metal/normalization.cpp)", _rows),
    Row(("RoPE",), "1 or 2", "mx.fast: one kernel, a copy before it where rows have gaps "
        "(metal/rope.cpp)", _rows),
    Row(("ScaledDotProductAttention",), "1 or 2", "mx.fast: the vector kernel, in two passes from "
        "1,024 keys on (metal/scaled_dot_product_attention.cpp); shapes it does not take are "
        "traced as the primitives that MLX falls back to", _attention),
    Row(("Compiled",), "counted inside", "a region of mx.compile: elementwise neighbours are one "
        "kernel, everything else as in this table (compile.cpp)", _compiled),
)  # fmt: skip

ROWS = {name: row for row in TABLE for name in row.names}


INTRODUCTION = """\
# Metal launches of MLX's primitives

What `benchmarks/launch_table.py` counts, read off MLX's sources (0.32, 2026). `python -m
benchmarks.launches` applies it to the traced graph of one decoded token. Where a number depends on
strides, every array is followed through the graph as MLX lays it out; tests compare these layouts
with MLX's own. No launch was counted on a GPU.

Three things that cost launches without showing in Python:

- An array of starts (`mx.slice_update`) needs a kernel that computes the offset; a Python slice
  (`new = old[:]; new[:, a:b] = rows`) does not. Both write in place only where nothing else holds
  the memory.
- `x[:, None]` gives the new axis stride 1, and a column slice of one row keeps its long stride. To
  a packed product neither is a matrix, so that it copies the rows first; `reshape` makes them one.
- `gather_qmm` without `lhs_indices` counts its rows by a kernel; a constant does not.
"""


def markdown() -> str:
    """The table for readers."""
    lines = [INTRODUCTION, "| primitives | launches | why |", "|---|---|---|"]
    lines += [f"| {', '.join(row.names)} | {row.launches} | {row.reason} |" for row in TABLE]
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
