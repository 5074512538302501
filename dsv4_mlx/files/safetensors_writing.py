"""Writing safetensors files: headers of what is planned, tensors in pieces, whole files or none.

A file is eight bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the
tensors' bytes.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import numpy as np

from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.files.safetensors_dtypes import ITEM_BYTES, Shape, tensor_bytes


class NamedTensor(Protocol):
    """What a header says about a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Shape: ...


_LENGTH = struct.Struct("<Q")
NamedT = TypeVar("NamedT", bound=NamedTensor)


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to be written: `chunks` yields its bytes, in order, `nbytes` of them in all."""

    name: str
    dtype: str
    shape: Shape
    chunks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


def plan_array(name: str, dtype: str, array: np.ndarray) -> TensorPlan:
    """A tensor whose bytes are in memory; `dtype` names them, for numpy has no 8-bit floats."""
    array = np.ascontiguousarray(array)
    if ITEM_BYTES[dtype] != array.itemsize:
        raise ValueError(f"{name}: {array.dtype} bytes cannot be stored as {dtype}.")
    return TensorPlan(name, dtype, array.shape, lambda: [array.tobytes()])


def aligned(tensors: Iterable[NamedT]) -> list[NamedT]:
    """The tensors, wide elements first as the safetensors library does: each starts aligned."""
    return sorted(tensors, key=lambda tensor: -ITEM_BYTES[tensor.dtype])


def write_file(
    path: Path,
    tensors: Iterable[TensorPlan],
    metadata: Mapping[str, str] | None = None,
    files: FileSystem | None = None,
) -> int:
    """Write one file through a temporary name, so `path` is whole or absent; returns its bytes.

    `files` tells what its file system lacks.
    """
    tensors, files = aligned(tensors), files or FileSystem()
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        file.write(header_bytes(tensors, metadata))
        for tensor in tensors:
            _write_tensor(file, tensor)
        file.flush()
        files.sync(file.fileno(), temporary)
        size = file.tell()
    files.replace(temporary, path)
    return size


def header_bytes(
    tensors: Iterable[NamedTensor], metadata: Mapping[str, str] | None = None, align: int = 8
) -> bytes:
    """What a file begins with: the tensors' data follow in this order, without gaps, from a
    multiple of `align` bytes on; 8 aligns the numbers of every dtype."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        end = position + tensor_bytes(tensor.dtype, tensor.shape)
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % align)
    return _LENGTH.pack(len(text)) + text


def _write_tensor(file: BinaryIO, tensor: TensorPlan) -> None:
    start = file.tell()
    for chunk in tensor.chunks():
        file.write(chunk)
    if file.tell() - start != tensor.nbytes:
        raise ValueError(
            f"{tensor.name}: {file.tell() - start} bytes were produced, {tensor.nbytes} planned."
        )
