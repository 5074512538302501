"""Files that only save time, kept under a number of bytes: the least recently used go first.

When a file was used, its own time tells, unless somebody knows better.

Several programs may do this in one folder at once, so a file that is gone already is no surprise,
and one that somebody has open stays readable to them after it was removed.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_ABANDONED_AFTER_S = 3600.0


@dataclass(frozen=True)
class _File:
    path: Path
    nbytes: int
    used_ns: int


def touch(path: Path) -> bool:
    """Note that `path` is used now; False when there is no such file."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def shrink(
    paths: Iterable[Path],
    budget_bytes: int,
    in_use: Callable[[Path], bool] = lambda path: False,
    used: Callable[[Path], datetime] | None = None,
) -> list[Path]:
    """Remove files, the longest unused first, until the rest fits; what was removed.

    A file that is `in_use` stays, whatever it weighs. `used` tells when a file was used last.
    """

    def last_used(file: _File) -> Any:
        return file.used_ns if used is None else used(file.path)

    files = list(filter(None, map(_seen, paths)))
    if sum(file.nbytes for file in files) <= budget_bytes:
        return []
    files.sort(key=last_used)
    held = sum(file.nbytes for file in files)
    removed = []
    for file in files:
        if held <= budget_bytes:
            break
        if not in_use(file.path):
            file.path.unlink(missing_ok=True)
            removed.append(file.path)
            held -= file.nbytes
    return removed


def remove_abandoned(partials: Iterable[Path]) -> None:
    """Remove half-written files that no program has written to for an hour."""
    oldest_ns = time.time_ns() - int(_ABANDONED_AFTER_S * 1e9)
    for file in filter(None, map(_seen, partials)):
        if file.used_ns < oldest_ns:
            file.path.unlink(missing_ok=True)


def _seen(path: Path) -> _File | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return _File(path, status.st_size, status.st_mtime_ns)
