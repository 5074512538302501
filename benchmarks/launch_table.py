"""How many Metal kernels MLX launches for each primitive, and why.

    make pages

writes the table into docs/launches.md. It is read off MLX's sources (mlx/backend/metal and
mlx/backend/gpu, 2026; MLX 0.32): each row names the file, and its rule (`launch_rules.py`) looks at
sizes and strides. A primitive without a row is an error, so that nothing is left out of a count.
Arrays without elements launch nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks import launch_rules as rules
from benchmarks.launch_rules import STAND_IN, Counted, Node, Rule

PAGE = Path(__file__).parent.parent / "docs" / "launches.md"


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


def row_name(node: Node) -> str:
    """The name to look up: the primitive's, or that of the operation a stand-in stands for."""
    if node.name != "CustomKernel" or not node.arguments[0].startswith(STAND_IN):
        return node.name
    return str(node.arguments[0]).removeprefix(STAND_IN).split("_")[0]


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
        rules.same,
    ),
    Row(("Broadcast", "BroadcastAxes"), "0", "a view of stride 0 (gpu/primitives.cpp)",
        rules.broadcast),
    Row(("Transpose",), "0", "a view with permuted strides (gpu/primitives.cpp)", rules.transpose),
    Row(("Slice",), "0", "a view (gpu/slicing.cpp)", rules.cut),
    Row(("Split",), "0", "views (gpu/primitives.cpp)", rules.split),
    Row(("ExpandDims",), "0", "a view (gpu/primitives.cpp)", rules.expand),
    Row(("Squeeze",), "0", "a view (gpu/primitives.cpp)", rules.squeeze),
    Row(("AsStrided",), "0", "a view (gpu/primitives.cpp)", rules.as_strided),
    Row(
        ("Reshape", "Flatten", "Unflatten"),
        "0 or 1",
        "a view where the strides allow it, else a copy (gpu/copy.cpp reshape_gpu)",
        rules.reshape,
    ),
    Row(
        ("View",),
        "0 or 1",
        "a reinterpretation; other element sizes copy arrays with gaps (gpu/primitives.cpp)",
        rules.retype,
    ),
    Row(
        ("Contiguous",),
        "0 or 1",
        "nothing for an array in order whose memory has at most 16 KiB to spare, else a copy "
        "(gpu/primitives.cpp)",
        rules.contiguous,
    ),
    Row(
        (*_UNARY, *_BINARY, "Select"),
        "1",
        "one kernel for any strides (metal/unary.cpp, binary.cpp, ternary.cpp; AsType is a copy)",
        rules.elementwise,
    ),
    Row(("ToFP8", "FromFP8"), "1", "a unary kernel (metal/quantized.cpp)", rules.elementwise),
    Row(("Full",), "1", "fills new memory (gpu/primitives.cpp)", rules.fixed(1)),
    Row(("Arange",), "1", "fills new memory (metal/primitives.cpp)", rules.fixed(1)),
    Row(("RandomBits",), "1", "one kernel (metal/primitives.cpp)", rules.fixed(1)),
    Row(("Concatenate",), "1 per input", "copies each input to its place (metal/slicing.cpp)",
        rules.concatenate),
    Row(("Pad",), "2", "a fill, then a copy (gpu/slicing.cpp pad_gpu)", rules.fixed(2)),
    Row(
        ("SliceUpdate",),
        "1 or 2",
        "copies the rows; before it the whole array, unless its memory is free to be written "
        "(gpu/copy.cpp copy_gpu)",
        rules.slice_update,
    ),
    Row(
        ("DynamicSliceUpdate",),
        "2 or 3",
        "a kernel that computes the offset from the array of starts, then as SliceUpdate "
        "(metal/slicing.cpp compute_dynamic_offset)",
        rules.dynamic_slice_update,
    ),
    Row(("DynamicSlice",), "2", "the offset, then a copy (gpu/primitives.cpp)",
        rules.dynamic_slice),
    Row(("Gather", "GatherAxis"), "1", "one kernel for any strides (metal/indexing.cpp)",
        rules.fixed(1)),
    Row(("Scatter",), "2",
        "always copies the array first (metal/indexing.cpp)", rules.scatter),
    Row(("ScatterAxis",), "1 or 2",
        "copies the array first unless its memory is free (metal/indexing.cpp)",
        rules.scatter_axis),
    Row(
        ("Reduce",),
        "1 to 3",
        "one kernel; a copy before it where the input has gaps; a second pass where more than "
        "4,096 elements become one (metal/reduce.cpp). Second passes of very tall columns are "
        "not counted.",
        rules.reduce,
    ),
    Row(("ArgReduce",), "1", "one kernel for any strides (metal/primitives.cpp)", rules.fixed(1)),
    Row(
        ("Softmax", "LogSumExp"),
        "1 or 2",
        "one kernel over the last axis, a copy before it where rows have gaps (metal/softmax.cpp)",
        rules.rows,
    ),
    Row(("Scan",), "1 or 2",
        "one kernel, a copy before it where the input has gaps (metal/scan.cpp)", rules.scan),
    Row(
        ("Sort", "ArgSort", "Partition", "ArgPartition"),
        "1 or 2 + 2 log2(blocks)",
        "one kernel up to 2,048 elements per row; beyond, blocks of 2,048 are sorted, merged in "
        "pairs by two kernels per doubling, and copied out. Partitions are full sorts "
        "(metal/sort.cpp).",
        rules.sort,
    ),
    Row(
        ("Matmul",),
        "1 to 4",
        "a vector or matrix kernel; one copy per operand whose rows are neither consecutive nor "
        "transposed (a vector with gaps between rows counts as such); a second kernel where the "
        "inputs are split (metal/matmul.cpp)",
        rules.matmul,
    ),
    Row(("AddMM",), "1 to 4", "as Matmul (metal/matmul.cpp)", rules.matmul),
    Row(("GatherMM",), "1 to 3", "as Matmul, never split (metal/matmul.cpp)", rules.gather_matmul),
    Row(
        ("QuantizedMatmul",),
        "1 and more",
        "a vector kernel for few rows, else a matrix kernel that may be split; one copy per input "
        "whose last two axes are not a matrix without gaps, a single strided row included "
        "(metal/quantized.cpp ensure_row_contiguous_matrix)",
        rules.quantized_matmul,
    ),
    Row(
        ("GatherQMM",),
        "1 and more",
        "as QuantizedMatmul, never split; indices may have gaps. Missing lhs_indices appear as an "
        "Arange of their own (metal/quantized.cpp)",
        rules.gather_quantized,
    ),
    Row(("Quantize", "Dequantize"), "1 and more", "one kernel, one copy per input with gaps "
        "(metal/quantized.cpp)", lambda node: (
            1 + sum(not source.row_contiguous for source in node.inputs), node.outputs)),
    Row(("Hadamard",), "1 to 3", "one kernel for a power of two, two for others, a copy where "
        "the input has gaps (metal/hadamard.cpp)", rules.hadamard),
    Row(
        ("CustomKernel",),
        "1 and more",
        "one kernel; one copy per input that is not in row order, one fill per output with an "
        "initial value (metal/custom_kernel.cpp)",
        rules.custom_kernel,
    ),
    Row(("RMSNorm", "LayerNorm"), "1 or 2", "mx.fast: one kernel, a copy before it where rows have "
        "gaps (metal/normalization.cpp)", rules.rows),
    Row(("RoPE",), "1 or 2", "mx.fast: one kernel, a copy before it where rows have gaps "
        "(metal/rope.cpp)", rules.rows),
    Row(("ScaledDotProductAttention",), "1 or 2", "mx.fast: the vector kernel, in two passes from "
        "1,024 keys on (metal/scaled_dot_product_attention.cpp); shapes it does not take are "
        "traced as the primitives that MLX falls back to", rules.attention),
    Row(("Compiled",), "counted inside", "a region of mx.compile: elementwise neighbours are one "
        "kernel, everything else as in this table (compile.cpp)", rules.compiled),
)  # fmt: skip

ROWS = {name: row for row in TABLE for name in row.names}


INTRODUCTION = """\
# Metal launches of MLX's primitives

Written by `make pages`: what `benchmarks/launch_table.py` counts, read off MLX's sources (0.32,
2026). `python -m benchmarks.launches` applies it to the traced graph of one decoded token. Where a
number depends on strides, every array is followed through the graph as MLX lays it out; tests
compare these layouts with MLX's own. No launch was counted on a GPU.

Three things that cost launches without showing in Python:

- An array of starts (`mx.slice_update`) needs a kernel that computes the offset; a Python slice
  (`new = old[:]; new[:, a:b] = rows`) does not. Both write in place only where nothing else holds
  the memory.
- `x[:, None]` gives the new axis stride 1, and a column slice of one row keeps its long stride. To
  a packed product neither is a matrix, so that it copies the rows first; `reshape` makes them one.
- `gather_qmm` without `lhs_indices` counts its rows by a kernel; a constant does not.

Launches go to the GPU in command buffers. MLX ends one after 40 or 50 launches, or once the arrays
in it have more than 40 or 50 Mi elements, which every stack of experts has; on Macs with memory for
it `dsv4_mlx/device/command_buffers.py` sets other limits. `benchmarks/encoding.py` applies the rule
to the same graph, and follows the longest chain of launches that wait for one another.

A layer with Engram in memory has six launches more: the numbers of its rows, their codes and their
scales (two gathers), the rows unpacked, the product with them, and the gate.
"""


def page() -> str:
    """docs/launches.md: the table for readers."""
    lines = [INTRODUCTION, "| primitives | launches | why |", "|---|---|---|"]
    lines += [f"| {', '.join(row.names)} | {row.launches} | {row.reason} |" for row in TABLE]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
