"""Jobs that quantize: the source's exact values, a block of rows at a time, to few bits."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import mlx.core as mx
import numpy as np

from convert.importance import Importance, rows_of
from convert.jobs import Job, Piece, loaded_bytes, outputs_of, sources_of
from convert.lowbit import AffineTensors, quantize
from dsv4_mlx.files.safetensors_dtypes import ITEM_BYTES
from dsv4_mlx.files.safetensors_files import NUMPY_DTYPES, TensorEntry
from dsv4_mlx.weights.forms import AffineForm, BlockFp8Form, Mxfp4Form, Mxfp8Form, WeightForm
from dsv4_mlx.weights.parameters import Parameter, Part
from dsv4_mlx.weights.quantization import PackingKeys
from dsv4_mlx.weights.reading import dequantize_blocks
from dsv4_mlx.weights.scales import packed_scales, row_scales

# Weights in memory at a time; the search holds a dozen arrays of this size.
_BLOCK_WEIGHTS = 1 << 20
_STEP_ROWS = 128  # and a multiple of so many rows


@dataclass
class WeightError:
    """Squared weights and squared differences of one matrix, added up as it is converted."""

    weights: float = 0.0
    differences: float = 0.0

    @property
    def relative(self) -> float:
        """Root of the mean squared difference, as a share of the weights'."""
        return float((self.differences / self.weights) ** 0.5) if self.weights else 0.0


def quantized_job(
    parameter: Parameter, packing: PackingKeys, importance: Importance | None = None
) -> Job:
    """`parameter` in affine groups, its errors weighted by `importance`."""
    bits, group = packing["bits"], packing["group_size"]
    written = replace(parameter, form=AffineForm(bits, group))
    error = WeightError()

    def pieces() -> Iterator[Piece]:
        error.weights = error.differences = 0.0
        weights = None if importance is None else importance.of(parameter)
        for row, values in in_order(parameter):
            packed = quantize(values, bits, group, _weights(weights, parameter, row, len(values)))
            _add(error, values, packed, packing)
            for index, array in enumerate(packed):
                yield index, _bytes(array)

    return Job(
        parameter.module,
        format_name(bits, group),
        prod(parameter.shape),
        outputs_of(written),
        sources_of(parameter),
        pieces,
        loaded_bytes(written),
        error,
    )


def format_name(bits: int, group: int) -> str:
    """The words for affine groups."""
    return f"{bits} bits, groups of {group}"


def ends(
    parameter: Parameter, packing: PackingKeys, importance: Importance | None, nbytes: int
) -> tuple[bytes, bytes]:
    """The first and the last `nbytes` of the words that `quantized_job` writes, or all of them.

    Only the first block of rows and the last part of the matrix are read.
    """
    weights = None if importance is None else importance.of(parameter)
    rows = prod(parameter.shape[:-1])
    first = next(row_blocks(parameter.parts[0], parameter.form))
    last = parameter.parts[-1]
    words, row = b"", rows - prod(last.shape[:-1])
    for values in row_blocks(last, parameter.form):
        words += _words(values, packing, _weights(weights, parameter, row, len(values)))
        row += len(values)
    begin = _words(first, packing, _weights(weights, parameter, 0, len(first)))
    return begin[:nbytes], words[-nbytes:]


def _words(values: mx.array, packing: PackingKeys, weights: mx.array | None) -> bytes:
    return _bytes(quantize(values, packing["bits"], packing["group_size"], weights)[0])


def measured(
    parameter: Parameter, packing: PackingKeys, tensors: Mapping[str, TensorEntry]
) -> WeightError:
    """How far the stored `tensors` of a converted folder are from the source's `parameter`."""
    error = WeightError()
    entries = [tensors[f"{parameter.module}.{field}"] for field in ("weight", "scales", "biases")]
    for row, values in in_order(parameter):
        words, scales, offsets = (_stored(entry, row, len(values)) for entry in entries)
        _add(error, values, (words, scales, offsets), packing)
    return error


def _weights(
    importance: np.ndarray | None, parameter: Parameter, row: int, count: int
) -> mx.array | None:
    """Those of `count` rows from `row` on, as the search takes them."""
    return None if importance is None else mx.array(rows_of(importance, parameter, row, count))


def in_order(parameter: Parameter) -> Iterator[tuple[int, mx.array]]:
    """(first row in the whole stack, values) of every block."""
    row = 0
    for part in parameter.parts:
        for values in row_blocks(part, parameter.form):
            yield row, values
            row += len(values)


def _add(error: WeightError, values: mx.array, packed: AffineTensors, packing: PackingKeys) -> None:
    difference = values - unpacked(packed, packing)
    error.weights += _sum(values * values)
    error.differences += _sum(difference * difference)


def unpacked(packed: AffineTensors, packing: PackingKeys) -> mx.array:
    """The float32 values as the model multiplies them; MLX would compute in the scales' dtype."""
    words, scales, offsets = packed
    wide = scales.astype(mx.float32), offsets.astype(mx.float32)
    return mx.dequantize(words, *wide, **packing)


def _sum(array: mx.array) -> float:
    return float(np.array(array.sum()))


def row_blocks(part: Part, form: WeightForm) -> Iterator[mx.array]:
    """The next rows as float32 [rows, in], exactly the source's values, matrix by matrix."""
    *lead, rows, width = part.shape
    step = max(1, _BLOCK_WEIGHTS // width // _STEP_ROWS) * _STEP_ROWS
    scales = _scales(part, form)
    for matrix in range(prod(lead)):
        for start in range(0, rows, step):
            stop = min(rows, start + step)
            codes = _rows(part.weight, matrix * rows + start, stop - start)
            block = None if scales is None else scales.reshape(prod(lead), rows, -1)[matrix]
            yield _values(codes, None if block is None else block[start:stop], form)


def _scales(part: Part, form: WeightForm) -> np.ndarray | None:
    match form:
        case Mxfp4Form() | Mxfp8Form():
            return packed_scales(part, form)
        case BlockFp8Form():
            return row_scales(part, form)
    return None


def _rows(entry: TensorEntry, start: int, count: int) -> np.ndarray:
    """Some rows of a matrix or of a stack of them, in stored bits [count, stored width]."""
    width = entry.shape[-1]
    dtype = np.dtype(NUMPY_DTYPES[entry.dtype])
    offset = entry.start + start * width * ITEM_BYTES[entry.dtype]
    return np.fromfile(entry.path, dtype, count * width, offset=offset).reshape(count, width)


def _stored(entry: TensorEntry, start: int, count: int) -> mx.array:
    """The same as an array of the stored dtype."""
    rows = mx.array(_rows(entry, start, count))
    return rows.view(mx.bfloat16) if entry.dtype == "BF16" else rows


def _bytes(array: mx.array) -> bytes:
    """As stored; numpy knows no bfloat16."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array).tobytes()


def _values(codes: np.ndarray, scales: np.ndarray | None, form: WeightForm) -> mx.array:
    if scales is None:
        dense = mx.array(codes)
        return (dense.view(mx.bfloat16) if dense.dtype == mx.uint16 else dense).astype(mx.float32)
    if form.packing is None:
        assert isinstance(form, BlockFp8Form)
        return dequantize_blocks(mx.array(codes), mx.array(scales), form.block)
    words = mx.array(np.ascontiguousarray(codes).view(np.uint32))
    return mx.dequantize(words, mx.array(scales), dtype=mx.float32, **form.packing)
