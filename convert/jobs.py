"""The pieces of work of a conversion: what each reads, and the bytes it gives to which tensor.

One job makes one parameter of the model, with its scales. It is described completely before a
byte is read; when it runs it yields its bytes in small pieces, so that no step holds a stacked
matrix. Where bits do not change, a piece is a byte range of the source.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.parameters import Parameter, Part
from dsv4_mlx.quantization import BLOCK, GROUP, Storage
from dsv4_mlx.safetensors_dtypes import tensor_bytes
from dsv4_mlx.safetensors_files import CHUNK_BYTES, NUMPY_DTYPES, TensorEntry
from dsv4_mlx.scales import packed_scales, row_scales

Piece = tuple[int, bytes | memoryview]
"""Which of the job's tensors, and the bytes that come next in it; valid until the next piece."""

BLOCK_SCALED = "fp8, block scales"
"""FP8 that MLX has no packing for: the loader multiplies it out to bfloat16."""


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
    outputs, pieces, name = _NATIVE[parameter.storage](parameter, experts)
    return Job(
        parameter.module,
        name,
        prod(parameter.shape),
        tuple(outputs),
        sources_of(parameter),
        pieces,
    )


def sources_of(parameter: Parameter) -> tuple[TensorEntry, ...]:
    """Every stored tensor that the parameter is made of."""
    weights = [part.weight for part in parameter.parts]
    scales = [part.scales for part in parameter.parts if part.scales is not None]
    return (*weights, *scales)


_Native = tuple[list[Output], Callable[[], Iterator[Piece]], str]


def _dense(parameter: Parameter, experts: int) -> _Native:
    entry = parameter.parts[0].weight
    if parameter.field == "tid2eid":
        output = Output(parameter.name, "I32", entry.shape)
        return [output], lambda: _expert_table(entry, experts), "int32"
    entries = [part.weight for part in parameter.parts]  # several where experts are multiplied out
    output = Output(parameter.name, entry.dtype, parameter.shape)
    return [output], lambda: _ranges(0, entries), entry.dtype.lower()


def _block_fp8(parameter: Parameter, experts: int) -> _Native:
    shape = parameter.shape
    blocks = (*shape[:-1], -(-shape[-1] // BLOCK))
    outputs = [
        Output(parameter.name, "F8_E4M3", shape),
        Output(f"{parameter.module}.block_scales", "F32", blocks),
    ]
    return outputs, lambda: _codes_and_scales(parameter, row_scales), BLOCK_SCALED


def _packed(parameter: Parameter, experts: int) -> _Native:
    shape, storage = parameter.shape, parameter.storage
    per_word = 8 if storage is Storage.MXFP4 else 4
    outputs = [
        Output(parameter.name, "U32", (*shape[:-1], shape[-1] // per_word)),
        Output(f"{parameter.module}.scales", "U8", (*shape[:-1], shape[-1] // GROUP)),
    ]

    def scales(part: Part) -> np.ndarray:
        return packed_scales(part, storage)

    return outputs, lambda: _codes_and_scales(parameter, scales), storage.value


_NATIVE: dict[Storage, Callable[[Parameter, int], _Native]] = {
    Storage.DENSE: _dense,
    Storage.BLOCK_FP8: _block_fp8,
    Storage.MXFP4: _packed,
    Storage.MXFP8: _packed,
}


def _codes_and_scales(
    parameter: Parameter, scales: Callable[[Part], np.ndarray]
) -> Iterator[Piece]:
    yield from _ranges(0, [part.weight for part in parameter.parts])
    for part in parameter.parts:
        yield 1, _bytes(scales(part))


def _ranges(index: int, entries: list[TensorEntry]) -> Iterator[Piece]:
    """The bytes of the tensors one behind the other: stacking is no more than that."""
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
