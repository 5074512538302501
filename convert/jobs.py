"""The pieces of work of a conversion: what each reads, and the bytes it gives to which tensor.

One job makes one parameter of the model, with its scales. It is described completely before a
byte is read; when it runs it yields its bytes in small pieces, so that no step holds a stacked
matrix. Where bits do not change, a piece is a byte range of the source.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Protocol

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_dtypes import tensor_bytes
from dsv4_mlx.files.safetensors_files import CHUNK_BYTES, NUMPY_DTYPES, TensorEntry
from dsv4_mlx.weights.forms import (
    BlockFp8Form,
    DenseForm,
    Mxfp4Form,
    Mxfp8Form,
    RowFp8Form,
    total_bytes,
)
from dsv4_mlx.weights.parameters import Parameter
from dsv4_mlx.weights.quantization import WeightStorage
from dsv4_mlx.weights.scales import checked_scales, packed_scales, row_scales

Piece = tuple[int, bytes | memoryview]
"""Which of the job's tensors, and the bytes that come next in it; valid until the next piece."""


class Error(Protocol):
    """How far a job's values are from the source's, known once it has run."""

    @property
    def relative(self) -> float: ...


@dataclass(frozen=True)
class Output:
    """One tensor of the new checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Job:
    """One parameter: `sources` are all tensors it consumes, `weights` how many numbers it holds.

    `error` collects how far values are from the source's; None says that they are the same.
    """

    module: str
    format: str
    weights: int
    outputs: tuple[Output, ...]
    sources: tuple[TensorEntry, ...]
    pieces: Callable[[], Iterator[Piece]]
    loaded_bytes: int = 0
    """Bytes in a GPU's memory, where it is loaded at all."""
    error: Error | None = None

    @property
    def nbytes(self) -> int:
        return sum(output.nbytes for output in self.outputs)


def copy_job(entry: TensorEntry) -> Job:
    """A tensor under its own name, byte for byte."""
    output = Output(entry.name, entry.dtype, entry.shape)
    return Job(
        entry.name, "kept", prod(entry.shape), (output,), (entry,), lambda: _ranges(0, [entry])
    )


def native_job(parameter: Parameter, experts: int) -> Job:
    """A parameter as the release has it, in the packing that MLX reads."""
    return Job(
        parameter.module,
        _format(parameter),
        prod(parameter.shape),
        outputs_of(parameter),
        sources_of(parameter),
        partial(_native_pieces, parameter, experts),
        loaded_bytes(parameter),
    )


def outputs_of(parameter: Parameter) -> tuple[Output, ...]:
    """The tensors that the parameter is written as."""
    return tuple(Output(name, *tensor) for name, tensor in parameter.written().items())


def loaded_bytes(parameter: Parameter) -> int:
    """Bytes in a GPU's memory; norms, which are float32 there, count as they are stored."""
    if isinstance(parameter.form, DenseForm):
        return total_bytes(parameter.written())
    return total_bytes(parameter.loaded("BF16"))


def sources_of(parameter: Parameter) -> tuple[TensorEntry, ...]:
    """Every stored tensor that the parameter is made of."""
    weights = [part.weight for part in parameter.parts]
    scales = [part.scales for part in parameter.parts if part.scales is not None]
    return (*weights, *scales)


def _format(parameter: Parameter) -> str:
    """The words for how it is stored."""
    match parameter.storage:
        case WeightStorage.DENSE:
            stored = parameter.parts[0].weight.dtype
            return "int32" if parameter.field == "tid2eid" else stored.lower()
        case WeightStorage.BLOCK_FP8:
            return "fp8, block scales"  # which the loader multiplies out to bfloat16
    packed: str = parameter.storage.value
    return packed


def _native_pieces(parameter: Parameter, experts: int) -> Iterator[Piece]:
    weights = [part.weight for part in parameter.parts]  # many where experts are not stacked
    if parameter.field == "tid2eid":
        yield from _expert_table(weights[0], experts)
        return
    yield from _ranges(0, weights)
    for part in parameter.parts:
        match parameter.form:
            case RowFp8Form() as form:  # too many scales to hold at once
                yield from ((1, chunk) for chunk in checked_scales(part, form))
            case Mxfp4Form() | Mxfp8Form() as form:
                yield 1, _bytes(packed_scales(part, form))
            case BlockFp8Form() as form:
                yield 1, _bytes(row_scales(part, form))


def _ranges(index: int, entries: list[TensorEntry]) -> Iterator[Piece]:
    """The bytes of the tensors one after the other: stacking is no more than that."""
    buffer = bytearray(CHUNK_BYTES)
    for entry in entries:
        for chunk in entry.views(buffer):
            yield index, chunk


def _expert_table(entry: TensorEntry, experts: int) -> Iterator[Piece]:
    for chunk in entry.views(bytearray(CHUNK_BYTES)):
        table = np.frombuffer(chunk, NUMPY_DTYPES[entry.dtype])
        if table.min() < 0 or table.max() >= experts:
            raise CheckpointError(
                f"{entry.name} in {entry.path.name} holds an expert outside 0 to {experts - 1}; "
                "download the file again."
            )
        yield 0, _bytes(table.astype(np.int32))


def _bytes(array: np.ndarray) -> memoryview:
    """The array's own memory, which may be large, and not a copy."""
    return np.ascontiguousarray(array).data.cast("B")
