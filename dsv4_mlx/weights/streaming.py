"""Items of files by number, read when they are asked for: rows of a table, or whole experts.

An item is one range of bytes, or several in several places. Ranges are read by `os.preadv` on a
pool of threads straight into the caller's buffers; nothing is mapped, so that no reading can fill a
GPU's memory with pages of a file. What was asked for is a ticket until it is waited for. A file
that another one replaces is read on as it was; one that is written to is an error.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.weights.open_files import OpenFiles

Bytes = npt.NDArray[np.uint8]

THREADS = 8
"""Readers at a time: a disk answers scattered reads as fast as it has several of them."""
_RANGES_PER_TASK = 32
_BUFFERS_PER_READ = 256  # of a system's limit of 1,024


@dataclass(frozen=True)
class Ranges:
    """Where one part of every item lies: `nbytes` bytes from `starts[number]` on in a file.

    Equal rows one after the other are `range(first, first + rows * nbytes, nbytes)`.
    """

    path: Path
    starts: Sequence[int]
    nbytes: int


class ItemStore:
    """Items by number; every part of them is a `Ranges` of as many.

    CheckpointError where a file is missing or too short for its ranges.
    """

    def __init__(self, parts: Sequence[Ranges], threads: int = THREADS) -> None:
        self._parts = tuple(parts)
        self._count = len(parts[0].starts)
        if any(len(part.starts) != self._count for part in parts):
            raise UsageError(
                f"expected parts of {self._count} items each but found "
                f"{[len(part.starts) for part in parts]}; give every item all its parts."
            )
        self._files = OpenFiles(part.path for part in parts)
        for part in parts:
            _require_whole(part, self._files.size(part.path))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="items")

    def __len__(self) -> int:
        return self._count

    def request(self, numbers: Any, into: Sequence[Bytes] | None = None) -> "ItemTicket":
        """Begin to read items by number, an array of integers of any shape.

        Repeated ones are read once. `into` are buffers [n, nbytes] uint8, one for each part, which
        are then filled in the order of the n `numbers`; their rows may lie apart. UsageError for
        numbers that no item has and for buffers of other shapes.
        """
        wanted = np.asarray(numbers)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self._count:
            raise UsageError(
                f"expected items below {self._count} but found {wanted.min()} to {wanted.max()}."
            )
        if into is not None:
            self._require_fitting(wanted, into)
            order = np.argsort(wanted, kind="stable")
            return ItemTicket(self._reads(wanted[order], into, order), into, None, wanted.shape)
        distinct, places = np.unique(wanted, return_inverse=True)
        buffers = [np.empty((distinct.size, part.nbytes), np.uint8) for part in self._parts]
        reads = self._reads(distinct, buffers, np.arange(distinct.size))
        return ItemTicket(reads, buffers, places.reshape(-1), wanted.shape)

    def close(self) -> None:
        """Read nothing more and close the files; what was asked for is read first."""
        self._pool.shutdown()
        self._files.close()

    def _require_fitting(self, wanted: npt.NDArray[Any], into: Sequence[Bytes]) -> None:
        shapes = [(wanted.size, part.nbytes) for part in self._parts]
        found = [buffer.shape for buffer in into]
        if wanted.ndim != 1 or found != shapes or any(b.dtype != np.uint8 for b in into):
            raise UsageError(f"expected buffers of bytes {shapes} but found {found}.")

    def _reads(
        self, numbers: npt.NDArray[Any], buffers: Sequence[Bytes], places: npt.NDArray[Any]
    ) -> list[Future[None]]:
        """Reads of ascending `numbers` into the rows `places`, under way."""
        tasks = []
        for part, buffer in zip(self._parts, buffers, strict=True):
            for first in range(0, numbers.size, _RANGES_PER_TASK):
                span = slice(first, first + _RANGES_PER_TASK)
                rows = [buffer[place] for place in places[span]]
                starts = [part.starts[int(number)] for number in numbers[span]]
                tasks.append(self._pool.submit(self._fill, part.path, starts, rows))
        return tasks

    def _fill(self, path: Path, starts: Sequence[int], rows: Sequence[Bytes]) -> None:
        """Read rows from their starts; neighbours in the file with one call.

        A method, so that no file is closed before everything that was asked for is read.
        """
        for start, buffers in _runs(starts, rows):
            self._files.fill(path, start, buffers)


class ItemTicket:
    """Items that were asked for."""

    def __init__(
        self,
        reads: Sequence[Future[None]],
        buffers: Sequence[Bytes],
        places: npt.NDArray[Any] | None,
        shape: tuple[int, ...],
    ) -> None:
        self._reads, self._buffers, self._places, self._shape = reads, buffers, places, shape

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return all(read.done() for read in self._reads)

    def result(self) -> tuple[Bytes, ...]:
        """Every part's bytes, uint8 [..., nbytes] in the shape of the numbers, once they are there.

        CheckpointError for what could not be read.
        """
        for read in self._reads:
            read.result()
        if self._places is None:
            return tuple(self._buffers)
        return tuple(
            buffer[self._places].reshape(*self._shape, buffer.shape[1]) for buffer in self._buffers
        )


def _runs(starts: Sequence[int], rows: Sequence[Bytes]) -> Iterator[tuple[int, list[memoryview]]]:
    """Starts in the file, each with the buffers of ranges that follow each other without a gap."""
    first, end, buffers = 0, -1, list[memoryview]()
    for start, row in zip(starts, rows, strict=True):
        if buffers and (start != end or len(buffers) == _BUFFERS_PER_READ):
            yield first, buffers
            buffers = []
        if not buffers:
            first = start
        buffers.append(row.data)
        end = start + row.nbytes
    if buffers:
        yield first, buffers


def _require_whole(part: Ranges, size: int) -> None:
    starts = part.starts
    # A range's largest start is at one of its ends, and it has too many to look at.
    ends = (starts[0], starts[-1]) if isinstance(starts, range) and starts else starts
    needed = max(ends, default=0) + part.nbytes if len(starts) else 0
    if size < needed:
        raise CheckpointError(
            f"{part.path.name} has {size} bytes, expected at least {needed}; download it again."
        )
