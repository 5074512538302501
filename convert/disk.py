"""Every byte that a conversion writes goes through `Disk`, so that a test can fill it up."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from dsv4_mlx.files.file_systems import FileSystem, Tell

# Linux makes pages as large as one write: 256 KiB were measured to cost it half as much time again
# as this, and 512 KiB three times as much.
_WRITE_BYTES = 128 << 10
# Of most file systems 255; of those that encrypt names less.
_LONGEST_NAME = 143


class Disk:
    """Writes that are whole or an OSError, and names that appear only when their bytes are safe.

    `tell` hears once for each protection that the file system lacks.
    """

    def __init__(self, tell: Tell = lambda sentence: None) -> None:
        self.files = FileSystem(tell)
        self._remembers = False

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """All of `data` at `offset`."""
        view = memoryview(data).cast("B")
        while view:
            written = os.pwrite(descriptor, view[:_WRITE_BYTES], offset)
            view, offset = view[written:], offset + written

    def begin(self, descriptor: int, offset: int, nbytes: int) -> None:
        """Have the system write these bytes out soon, without waiting, where it can be asked to.

        "Not needed" means that to Linux: what is not on the disk yet is sent there first.
        """
        if hasattr(os, "posix_fadvise"):
            with suppress(OSError):  # it is advice
                os.posix_fadvise(descriptor, offset, nbytes, os.POSIX_FADV_DONTNEED)

    def forget(self, path: Path) -> None:
        """Have the system read a file from the disk the next time; tells where that is not sure."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except (AttributeError, OSError):
            if not self._remembers:
                self._remembers = True
                self.files.tell(
                    f"the system may keep {path} in memory: what is read back to compare may come "
                    "from there and not from the disk."
                )

    def sync(self, descriptor: int, path: Path) -> None:
        """Wait until the disk has the open file, and not only the drive's own cache."""
        self.files.sync(descriptor, path, through=True)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a small file and sync it; undone when not all of it fits."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            end = os.fstat(descriptor).st_size
            try:
                self.write(descriptor, data, end)
                self.sync(descriptor, path)
            except OSError:
                with suppress(OSError):  # a line that stays is whole, or cut off by its reader
                    os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        if end == 0:
            self.sync_folder(path.parent)

    def publish(self, temporary: Path, final: Path) -> None:
        """Give a synced file its name."""
        self.files.replace(temporary, final)
        self.sync_folder(final.parent)

    def put(self, path: Path, data: bytes) -> None:
        """A small file, whole or absent."""
        temporary = partial(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self.write(descriptor, data, 0)
            self.sync(descriptor, temporary)
        finally:
            os.close(descriptor)
        self.publish(temporary, path)

    def sync_folder(self, folder: Path) -> None:
        """Names, not bytes."""
        self.files.sync_folder(folder, through=True)


def partial(path: Path, mark: str = "") -> Path:
    """The name of a file that is being written; `mark` tells it from others for the same name."""
    ending = f"{mark}.partial"
    if len(os.fsencode(path.name + ending)) > _LONGEST_NAME:
        return path.with_name(hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32] + ending)
    return path.with_name(path.name + ending)
