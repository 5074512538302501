"""How fast a disk answers reads of one expert's size at random places, its file cache bypassed."""

import fcntl
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Protocol

THREADS = 8
SECONDS = 3.0
PAUSE = 20.0
"""Seconds between the two measurements, in which reading goes on: a disk that gets hot slows."""
_PAGE = 1 << 14
"""Bytes; places and sizes of reads that bypass the cache are multiples of a disk's pages."""
_F_NOCACHE = getattr(fcntl, "F_NOCACHE", None)
_O_DIRECT = getattr(os, "O_DIRECT", 0)


@dataclass(frozen=True)
class Measuring:
    """For how long, and by which clock; a test gives another."""

    seconds: float = SECONDS
    pause: float = PAUSE
    threads: int = THREADS
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class DiskSpeed:
    """What was measured; rates are bytes per second."""

    first: float
    later: float
    """After `pause` seconds more of reading."""
    read_bytes: int
    threads: int
    pause: float

    @property
    def sustained(self) -> float:
        """The rate that lasts."""
        return min(self.first, self.later)

    def sentence(self) -> str:
        """For people."""
        return (
            f"reads {self.first / 1e9:.1f} GB/s, {self.later / 1e9:.1f} GB/s after "
            f"{self.pause:.0f} s more (measured: {self.threads} threads, "
            f"{self.read_bytes / 1e6:.1f} MB at random places, past the file cache)"
        )


class ReadSource(Protocol):
    """What is read: safe for several threads."""

    def read(self, place: float, buffer: mmap) -> int:
        """Fill `buffer` from a place between 0 and 1 of all that is there -> bytes read."""
        ...


def measure(
    source: ReadSource, nbytes: int, measuring: Measuring, seed: int | None = None
) -> DiskSpeed:
    """Read for `seconds`, go on for `pause`, and read for `seconds` again. Raises OSError."""
    size = -(-nbytes // _PAGE) * _PAGE
    places = random.Random(seed)

    def rate(seconds: float) -> float:
        return _rate(source, size, seconds, measuring, places)

    first = rate(measuring.seconds)
    if measuring.pause:
        rate(measuring.pause)
    later = rate(measuring.seconds)
    return DiskSpeed(first, later, size, measuring.threads, measuring.pause)


def _rate(
    source: ReadSource, size: int, seconds: float, measuring: Measuring, places: random.Random
) -> float:
    """Bytes per second of all threads together."""
    start = measuring.clock()
    end = start + seconds

    def reader(place: random.Random) -> int:
        done = 0
        with mmap(-1, size) as buffer:
            while measuring.clock() < end:
                done += source.read(place.random(), buffer)
        return done

    seeds = [random.Random(places.random()) for _ in range(measuring.threads)]
    with ThreadPoolExecutor(measuring.threads) as pool:
        total = sum(pool.map(reader, seeds))
    return total / max(measuring.clock() - start, 1e-9)


class Files:
    """Large files, opened so that what is read comes from the disk where the system allows it."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[tuple[int, int, bool]] = []
        try:
            for path in paths:
                file, is_direct = _opened(path)
                self._files.append((file, os.fstat(file).st_size, is_direct))
        except OSError:
            self.close()
            raise

    def read(self, place: float, buffer: mmap) -> int:
        """From a whole page that lies at `place`; a file shorter than `buffer` gives all it has."""
        left = place * sum(size for _, size, _ in self._files)
        at = 0
        while left >= self._files[at][1] and at < len(self._files) - 1:
            left -= self._files[at][1]
            at += 1
        file, size, is_direct = self._files[at]
        start = int(min(left, max(0, size - len(buffer)))) // _PAGE * _PAGE
        if not is_direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, start, len(buffer), os.POSIX_FADV_DONTNEED)
        return os.preadv(file, [buffer], start)

    def close(self) -> None:
        """Let go of the files."""
        while self._files:
            os.close(self._files.pop()[0])


def _opened(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether its reads need no more to miss the cache: O_DIRECT where the file
    system knows it, F_NOCACHE on a Mac; elsewhere what the cache holds is dropped before a read."""
    if _O_DIRECT:
        with suppress(OSError):
            return _direct(path), True
    file = os.open(path, os.O_RDONLY)
    if _F_NOCACHE is not None:
        fcntl.fcntl(file, _F_NOCACHE, 1)
    return file, _F_NOCACHE is not None


def _direct(path: Path) -> int:
    """OSError where the file system does not read past the cache."""
    file = os.open(path, os.O_RDONLY | _O_DIRECT)
    try:
        with mmap(-1, _PAGE) as page:
            os.preadv(file, [page], 0)
    except OSError:
        os.close(file)
        raise
    return file
