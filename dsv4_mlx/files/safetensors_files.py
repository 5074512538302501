"""Reading safetensors files without loading them: headers, and the bytes of single tensors.

A file is eight bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, then the
tensors' bytes. Everything is checked before a byte of a tensor is used, so that a damaged download
ends in a sentence and not in a strange model.
"""

import os
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import (
    LFS_CURE,
    LFS_PROBLEM,
    DocumentError,
    is_lfs_pointer,
    kind_of,
    parse_json,
    shown,
    unique,
)
from dsv4_mlx.files.safetensors_dtypes import ITEM_BYTES, Shape, tensor_bytes

NUMPY_DTYPES = {
    "U8": np.uint8, "I8": np.int8, "F8_E4M3": np.uint8, "F8_E8M0": np.uint8, "BF16": np.uint16,
    "U32": np.uint32, "I32": np.int32, "F32": np.float32, "I64": np.int64,
}  # fmt: skip
# Small enough to stay in a core's cache between reading, hashing and writing: copying with 256 KiB
# was measured to take a third of the system time of 8 MiB.
CHUNK_BYTES = 1 << 18
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library and of MLX


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: `start` is an absolute byte offset in the file at `path`."""

    name: str
    dtype: str
    shape: Shape
    path: Path
    start: int
    nbytes: int

    def read(self) -> np.ndarray:
        """The tensor in its stored bits: 8-bit floats as uint8, bfloat16 as uint16."""
        flat = np.fromfile(self.path, np.uint8, count=self.nbytes, offset=self.start)
        return flat.view(NUMPY_DTYPES[self.dtype]).reshape(self.shape)

    def chunks(self) -> Iterator[bytes]:
        """The tensor's bytes in small pieces."""
        yield from map(bytes, self.views(bytearray(min(self.nbytes, CHUNK_BYTES))))

    def views(self, buffer: bytearray) -> Iterator[memoryview]:
        """The tensor's bytes in pieces that all lie in `buffer`: each is valid until the next."""
        view = memoryview(buffer)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(self.start)
            left = self.nbytes
            while left:
                size = file.readinto(view[: min(left, len(view))])
                if not size:
                    raise CheckpointError(
                        f"{self.path.name} became shorter while it was read; download it again."
                    )
                left -= size
                yield view[:size]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one file, checked against its length; CheckpointError names the damage."""
    return read_whole_header(path)[0]


def read_whole_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """The tensors and the metadata of one file; CheckpointError names the damage."""
    header, data_start, size = _open_header(path)
    metadata = _metadata(path, header)
    # Taken out one by one, so that both forms of a large header are never there together.
    entries = [_entry(path, data_start, name, header.pop(name)) for name in list(header)]
    _check_ranges(path, entries, data_start, size)
    return {entry.name: entry for entry in entries}, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone, of a file that may be cut short after its header."""
    header, _, _ = _open_header(path)
    return _metadata(path, header)


def _open_header(path: Path) -> tuple[dict[str, object], int, int]:
    """The header, where the data begins and where the file ends."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return *_parse_header(path, file, size), size
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read ({error.strerror}); download it again."
        ) from error


def _parse_header(path: Path, file: BufferedReader, size: int) -> tuple[dict[str, object], int]:
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if is_lfs_pointer(prefix + file.peek(64)):
        raise CheckpointError(f"{path.name} {LFS_PROBLEM}; {LFS_CURE}.")
    if length < 2:
        raise CheckpointError(
            f"{path.name} is no safetensors file: it holds {size} bytes and no header; "
            "download it again."
        )
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise CheckpointError(
            f"{path.name} claims a header of {length} bytes, but at most "
            f"{min(MAX_HEADER_BYTES, size - 8)} are possible; download it again."
        )
    try:
        header = parse_json(file.read(length), _Objects())
    except DocumentError as error:
        raise CheckpointError(
            f"{path.name} has a header that {error}; download it again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path.name} has a header that holds {kind_of(header)}, expected an object; download "
            "it again."
        )
    return header, 8 + length


def _metadata(path: Path, header: dict[str, object]) -> dict[str, str]:
    """What the writer said about the file, taken out of its header: texts by name."""
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values()):
        return metadata
    raise CheckpointError(
        f"{path.name}: __metadata__ is {shown(metadata)}, expected an object of texts; download "
        "the file again."
    )


class _Stored(NamedTuple):
    """What a header says about one tensor, not yet checked."""

    dtype: str
    shape: Shape
    start: int
    end: int


class _Objects:
    """JSON objects of a header without repeated keys, those of tensors as small as they can be.

    The largest release has 145,116 tensors of few shapes: a dict and two lists for each would take
    most of the memory of a conversion.
    """

    def __init__(self) -> None:
        self._shapes: dict[Shape, Shape] = {}

    def __call__(self, pairs: list[tuple[str, object]]) -> object:
        table = unique(pairs)
        try:
            return self._stored(table)
        except (KeyError, TypeError, ValueError):
            return table

    def _stored(self, table: dict[str, Any]) -> _Stored:
        dtype, shape, (start, end) = table["dtype"], tuple(table["shape"]), table["data_offsets"]
        if _whole(shape):  # only these, for (1.0,) would find (1,) and become it
            shape = self._shapes.setdefault(shape, shape)
        return _Stored(sys.intern(dtype), shape, start, end)


def _whole(numbers: Iterable[object]) -> bool:
    return all(type(number) is int and number >= 0 for number in numbers)


def _entry(path: Path, data_start: int, name: str, value: object) -> TensorEntry:
    if not isinstance(value, _Stored):
        raise CheckpointError(
            f"{path.name}: the header entry of {name} is malformed; download the file again."
        )
    dtype, shape, start, end = value
    if dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{path.name}: {name} has dtype {dtype}, which no V4 release uses; "
            "use the official files."
        )
    if not _whole((*shape, start, end)) or end - start != tensor_bytes(dtype, shape):
        raise CheckpointError(
            f"{path.name}: {name} of shape {list(shape)} and dtype {dtype} does not fit its "
            f"byte range [{start}, {end}]; download the file again."
        )
    return TensorEntry(name, dtype, shape, path, data_start + start, end - start)


def _check_ranges(path: Path, entries: list[TensorEntry], data_start: int, size: int) -> None:
    position = data_start
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.nbytes)):
        if entry.start < position:
            raise CheckpointError(
                f"{path.name}: {entry.name} overlaps the tensor before it; download the file again."
            )
        position = entry.start + entry.nbytes
        if position > size:
            raise CheckpointError(
                f"{path.name} is cut short: {entry.name} ends at byte {position}, the file at "
                f"{size}; download it again."
            )
