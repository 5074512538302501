"""How much room a conversion needs on the disk, and how much there is."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from convert.journal import Journal
from convert.layout import Shard
from convert.plan import ConversionPlan

_NOT_TOLD = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def free_bytes(path: Path) -> int | None:
    """Free space where `path` is or will be; None where the file system does not tell."""
    try:
        usage = shutil.disk_usage(_existing(path))
    except OSError as error:
        if error.errno in _NOT_TOLD:
            return None
        raise
    return usage.free if usage.total else None


def room_needed(
    plan: ConversionPlan,
    destination: Path,
    *,
    delete_source: bool = False,
    journal: Journal | None = None,
) -> int:
    """The most bytes that what is left of the conversion takes at one time.

    With `delete_source` the shards of the source make room on the way, those that lie on the disk
    of `destination` and nowhere else.
    """
    left = {path: 0 for path in _frees(plan, destination)} if delete_source else {}
    for entry in plan.source.tensors.values():
        if entry.path in left:
            left[entry.path] += 1
    needed = peak = 0
    for shard in plan.files:
        if journal is None or not journal.wrote(shard.file):
            needed += shard.file_bytes()
            peak = max(peak, needed)
        needed -= sum(path.stat().st_size for path in _emptied(shard, left))
    return peak


def _frees(plan: ConversionPlan, destination: Path) -> Iterator[Path]:
    """The files of the source whose removal gives room to `destination`."""
    device = _existing(destination).stat().st_dev
    for path in {entry.path for entry in plan.source.tensors.values()}:
        if not path.exists():
            continue
        status = path.stat()
        if status.st_dev == device and status.st_nlink == 1:
            yield path


def _emptied(shard: Shard, left: dict[Path, int]) -> Iterator[Path]:
    """Those that nothing needs after `shard`."""
    for job in shard.jobs:
        for entry in job.sources:
            if entry.path in left:
                left[entry.path] -= 1
                if left[entry.path] == 0:
                    yield entry.path


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
