"""Every byte that a conversion writes goes through `Disk`, so that a test can fill it up."""

import fcntl
import os
import sys
from pathlib import Path

# Linux makes pages as large as one write: 256 KiB were measured to cost it half as much time again
# as this, and 512 KiB three times as much.
_WRITE_BYTES = 128 << 10


class Disk:
    """Writes that are whole or an OSError, and names that appear only when their bytes are safe."""

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
            os.posix_fadvise(descriptor, offset, nbytes, os.POSIX_FADV_DONTNEED)

    def sync(self, descriptor: int) -> None:
        """Wait until the disk has it: on macOS fsync leaves it in the drive's own cache."""
        if sys.platform != "darwin":
            os.fsync(descriptor)
            return
        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError:  # a file system that does not know it, such as a network's
            os.fsync(descriptor)

    def append(self, path: Path, data: bytes) -> None:
        """Add to the end of a small file and sync it; undone when not all of it fits."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            end = os.fstat(descriptor).st_size
            try:
                self.write(descriptor, data, end)
                self.sync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        if end == 0:
            self.sync_folder(path.parent)

    def publish(self, temporary: Path, final: Path) -> None:
        """Give a synced file its name."""
        os.replace(temporary, final)
        self.sync_folder(final.parent)

    def put(self, path: Path, data: bytes) -> None:
        """A small file, whole or absent."""
        temporary = partial(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self.write(descriptor, data, 0)
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        self.publish(temporary, path)

    def sync_folder(self, folder: Path) -> None:
        """Names, not bytes."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)


def partial(path: Path) -> Path:
    """The name of a file that is being written."""
    return path.with_name(path.name + ".partial")
