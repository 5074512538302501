"""Writing safely on any file system, and a word on what a lesser one cannot do.

Locks, syncing the names in a folder, putting a file in the place of another, hard links and modes
are missing on one or another network mount, memory stick or FUSE file system. A `FileSystem` goes
on without them, loses nothing, and tells once which protection is missing.
"""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path

Tell = Callable[[str], None]


class Protection(Enum):
    """What a file system may lack; the value is what that means, for the end of a sentence."""

    LOCKS = "has no locks: nothing keeps two programs from writing the same files at once"
    SYNC = "cannot say when the disk has everything: a power cut may take what was written last"
    REPLACE = (
        "does not put one file in the place of another in one step: a kill meanwhile may leave "
        "the old one under another name"
    )
    MODES = "keeps no modes: other users of this machine may read what is written there"


# A lock that is held elsewhere is BlockingIOError, or EACCES as POSIX also allows; all else means
# that there are none.
_HELD = {errno.EACCES}
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
NO_REPLACE = {
    *(errno.EACCES, errno.EBUSY, errno.EEXIST, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP),
    *(errno.EOPNOTSUPP, errno.EPERM, errno.EXDEV),
}
"""What a file system answers that cannot put a file in the place of another."""
_PIECE_BYTES = 1 << 20


class FileSystem:
    """The calls that differ between file systems; `tell` hears once for each missing protection."""

    def __init__(self, tell: Tell = lambda sentence: None) -> None:
        self.tell = tell
        self._told: set[Protection] = set()

    @property
    def missing(self) -> frozenset[Protection]:
        """What was found missing so far."""
        return frozenset(self._told)

    def lock(self, descriptor: int, path: Path) -> bool:
        """Hold the open file or folder `path` until it is closed; False where there are no locks.

        Does not wait: BlockingIOError when another program, or another descriptor, holds it.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _HELD:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path)) from error
            self._lacks(Protection.LOCKS, path)
            return False
        return True

    def sync(self, descriptor: int, path: Path, *, through: bool = False) -> None:
        """Wait until the disk has the open file; OSError when it does not take it.

        On macOS that leaves it in the drive's own cache, unless it is to go `through` that too.
        """
        try:
            if not (through and _synced_through(descriptor)):
                os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise
            self._lacks(Protection.SYNC, path)

    def sync_folder(self, folder: Path, *, through: bool = False) -> None:
        """Have the names in `folder`, which is there, outlive a power cut."""
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                self.sync(descriptor, folder, through=through)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError:  # whatever the reason, the files themselves are written
            self._lacks(Protection.SYNC, folder)

    def replace(self, temporary: Path, final: Path) -> None:
        """Give the finished file `temporary` the name `final`, in the place of what is there.

        OSError, with both as they were, when that cannot be done.
        """
        try:
            os.replace(temporary, final)
        except OSError as error:
            if error.errno not in NO_REPLACE or not _are_files(temporary, final):
                raise
            self._lacks(Protection.REPLACE, final)
            self._copy_over(temporary, final)

    def place_new(self, temporary: Path, final: Path) -> None:
        """Give the finished file `temporary` the name `final`; FileExistsError when there is such a
        file already, also when it came meanwhile."""
        try:
            os.link(temporary, final)  # unlike a rename, it never replaces
        except FileExistsError:
            raise
        except OSError:  # a disk without hard links: hold the name with an empty file
            mode = stat.S_IMODE(os.stat(temporary).st_mode)
            os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
            try:
                self.replace(temporary, final)
            except BaseException:
                final.unlink(missing_ok=True)
                raise
            return
        temporary.unlink()

    def check_private(self, path: Path) -> None:
        """Tell when `path`, just made for its owner alone, is open to others all the same."""
        if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            self._lacks(Protection.MODES, path)

    def _lacks(self, protection: Protection, path: Path) -> None:
        if protection not in self._told:
            self._told.add(protection)
            self.tell(f"the file system of {path} {protection.value}.")

    def _copy_over(self, temporary: Path, final: Path) -> None:
        """What `replace` does where there is no rename: the old content is beside until the new is
        whole."""
        if not os.path.lexists(final):
            self._copy_new(temporary, final)
        else:
            old = final.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.old")
            self._copy_new(final, old)
            try:
                self._copy(temporary, final)
            except BaseException:
                self._copy(old, final)  # whose place on the disk it still has
                old.unlink()
                raise
            old.unlink()
        temporary.unlink()

    def _copy_new(self, source: Path, target: Path) -> None:
        try:
            self._copy(source, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def _copy(self, source: Path, target: Path) -> None:
        with open(source, "rb") as reading:
            mode = stat.S_IMODE(os.fstat(reading.fileno()).st_mode)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT, mode)
            with open(descriptor, "wb", buffering=0) as writing:
                while piece := reading.read(_PIECE_BYTES):
                    _write_all(writing.fileno(), piece)
                writing.truncate()
                self.sync(writing.fileno(), target)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data` at `offset`, however little one call takes."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _are_files(temporary: Path, final: Path) -> bool:
    return temporary.is_file() and (final.is_file() or not os.path.lexists(final))


def _synced_through(descriptor: int) -> bool:
    if sys.platform != "darwin":
        return False
    try:
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    except OSError:  # a file system that does not know it, such as a network's
        return False
    return True
