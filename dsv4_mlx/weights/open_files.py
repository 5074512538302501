"""Files that stay open and are read at places, by several threads at a time, and never mapped.

A file that another one replaces is read on as it was, unless somebody asks whether it is still in
its place; one that is written to is an error. One whose disk went away and came back is opened
again, as long as it is the same file.
"""

import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from weakref import finalize

from dsv4_mlx.errors import CheckpointError

_PAGE = 4_096  # or more; a system lets go of whole pages alone


class OpenFiles:
    """Descriptors of `paths`, each once; CheckpointError for one that cannot be opened.

    What is read once in a while may stay in the system's file cache. Unless it `stays` there, it is
    kept out of it: what is kept elsewhere already would take memory twice.
    """

    def __init__(self, paths: Iterable[Path], *, stays: bool = True) -> None:
        self._files: dict[Path, int] = {}
        self._stays, self._lock = stays, Lock()
        self._close = finalize(self, _close, self._files)
        for path in dict.fromkeys(paths):
            self._files[path] = _opened(path, stays)
        self._stamps = {path: _stamp(file) for path, file in self._files.items()}

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        return os.fstat(self._files[path]).st_size

    def fill(self, path: Path, start: int, buffers: list[memoryview]) -> None:
        """Fill `buffers`, bytes each, one after the other from `start` on; CheckpointError names
        the file that cannot be read, is too short or was written to."""
        file, begin = self._files[path], start
        while buffers:
            count = self._read(path, file, start, buffers)
            if not count:
                raise CheckpointError(
                    f"{path.name} ends at byte {start}, before what was looked up there; "
                    "download it again."
                )
            start += count
            buffers = _rest(buffers, count)
        if _stamp(file) != self._stamps[path]:
            raise CheckpointError(
                f"{path.name} was written to since it was opened; load the model again."
            )
        if not self._stays:
            _let_go(file, begin, start)

    def require_in_place(self) -> None:
        """CheckpointError for a file that another one replaced, or that was taken out of a folder
        that is there. Where the folder is gone too, reading says what its disk does."""
        for path, file in self._files.items():
            try:
                found, opened = os.stat(path), os.fstat(file)
            except FileNotFoundError:
                is_here = not path.parent.is_dir()
            except OSError:
                is_here = True
            else:
                is_here = os.path.samestat(found, opened)
                is_here = is_here or _stamp_of(found) == self._stamps[path]
            if not is_here:
                raise CheckpointError(
                    f"{path} is not the file that was opened: the folder was changed since; load "
                    "the model again."
                )

    def let_go(self) -> None:
        """Drop what Linux' file cache has of files that do not stay there, whoever read it."""
        if not self._stays:
            for file in self._files.values():
                _advise(file, 0, 0, "POSIX_FADV_DONTNEED")

    def close(self) -> None:
        """Close the files; nothing may be read any more."""
        self._close()

    def _read(self, path: Path, file: int, start: int, buffers: list[memoryview]) -> int:
        try:
            return os.preadv(file, buffers, start)
        except OSError as error:
            problem = error
        if self._opened_again(path, file):
            try:
                return os.preadv(file, buffers, start)
            except OSError as error:
                problem = error
        raise CheckpointError(
            f"{path.name} could not be read ({problem.strerror}); check its disk."
        ) from problem

    def _opened_again(self, path: Path, file: int) -> bool:
        """Whether `file` now reads the same file through a new descriptor, under its old number."""
        with self._lock:
            try:
                other = _opened(path, self._stays)
            except CheckpointError:
                return False
            try:
                if _stamp(other) != self._stamps[path]:
                    return False
                os.dup2(other, file, inheritable=False)
                return True
            except OSError:
                return False
            finally:
                os.close(other)


def _opened(path: Path, stays: bool) -> int:
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be opened ({error.strerror}); download the file again."
        ) from error
    if not stays:
        if (uncached := getattr(fcntl, "F_NOCACHE", None)) is not None:  # macOS
            fcntl.fcntl(file, uncached, 1)
        _advise(file, 0, 0, "POSIX_FADV_RANDOM")
        _advise(file, 0, 0, "POSIX_FADV_DONTNEED")
    return file


def _let_go(file: int, start: int, stop: int) -> None:
    """Drop a range from Linux' file cache, where reading puts it in any case."""
    start -= start % _PAGE
    _advise(file, start, stop + -stop % _PAGE - start, "POSIX_FADV_DONTNEED")


def _advise(file: int, start: int, length: int, advice: str) -> None:
    """Say how a file will be used, to systems that ask."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, start, length, getattr(os, advice))


def _rest(buffers: list[memoryview], count: int) -> list[memoryview]:
    """What of `buffers` is unfilled after `count` bytes."""
    for number, buffer in enumerate(buffers):
        if count < buffer.nbytes:
            return [buffer[count:], *buffers[number + 1 :]]
        count -= buffer.nbytes
    return []


def _stamp(file: int) -> tuple[int, int]:
    """What changes when a file is written to; one that takes its name leaves it as it is."""
    return _stamp_of(os.fstat(file))


def _stamp_of(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _close(files: dict[Path, int]) -> None:
    while files:
        os.close(files.popitem()[1])
