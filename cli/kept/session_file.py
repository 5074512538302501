"""The open file of one session: locked, appended to durably, and noticed when it is lost.

A session's file may be removed, replaced or written to while it is open, by a person who tidies up,
by a program that synchronises folders, or by a second chat where the file system has no locks.
Whoever appends asks `lost` first, so that nothing is written where nobody will find it.
"""

import errno
import os
import stat
import time
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

from cli.kept.private_files import new_file, private_folder
from cli.kept.session_replay import SessionError
from dsv4_mlx.files.file_systems import FileSystem, write_at

_PROBES = 5
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class Lost(Enum):
    """What may have become of a session's file while it was open."""

    REMOVED = auto()
    CHANGED = auto()
    """Another file is there now, or another program wrote to this one."""


class SessionFile:
    """A session's file, which no other program can open meanwhile; where there are locks."""

    def __init__(self, path: Path, file: BinaryIO, files: FileSystem) -> None:
        self.file = file
        self._path = path
        self._files = files
        self._nbytes = os.fstat(file.fileno()).st_size
        self.is_writable = file.writable()

    @classmethod
    def create(cls, path: Path, files: FileSystem) -> "SessionFile":
        """A new file of mode 0600, in a folder that is made where it is missing."""
        private_folder(path.parent, files)
        file = os.fdopen(new_file(path, os.O_RDWR), "r+b")
        try:
            _lock(file, path, files)
            files.check_private(path)
            files.sync_folder(path.parent)
            return cls(path, file, files)
        except BaseException:
            file.close()
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def open(cls, path: Path, files: FileSystem) -> "SessionFile":
        """The file that is there; only to be read, and not locked, where it may not be written.

        SessionError when another program has it open, or it is no regular file.
        """
        if not stat.S_ISREG(path.lstat().st_mode):
            raise SessionError(
                f"expected a session file at {path}, found no regular file; move it."
            )
        try:
            file: BinaryIO = os.fdopen(_descriptor(path, os.O_RDWR), "r+b")
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            return cls(path, os.fdopen(_descriptor(path, os.O_RDONLY), "rb"), files)
        try:
            _lock(file, path, files)
            if not os.fstat(file.fileno()).st_nlink:
                raise SessionError(f"session {path.stem} was just deleted by another program.")
            return cls(path, file, files)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        """Let other programs open the session."""
        self.file.close()

    def lost(self) -> Lost | None:
        """What became of the file since it was opened or last appended to; None: all is well."""
        try:
            own = os.fstat(self.file.fileno())
            there = os.lstat(self._path)
        except OSError:  # gone with its folder, or with the disk it was on
            return Lost.REMOVED
        # Some file systems number a file anew whenever it is looked up.
        looks_alike = (own.st_size, own.st_mtime_ns) == (there.st_size, there.st_mtime_ns)
        if not own.st_nlink or not (os.path.samestat(own, there) or looks_alike):
            return Lost.CHANGED
        return None if own.st_size == self._nbytes else Lost.CHANGED

    def append(self, content: bytes, end_byte: int) -> None:
        """Write `content` at `end_byte`, cutting what follows; on the disk when this returns.

        After a failure, a full disk for example, the file ends there.
        """
        descriptor = self.file.fileno()
        os.ftruncate(descriptor, end_byte)
        self._nbytes = end_byte
        try:
            write_at(descriptor, content, end_byte)
            self._files.sync(descriptor, self._path)
        except OSError:
            os.ftruncate(descriptor, end_byte)
            raise
        self._nbytes = end_byte + len(content)


def keep_beside(path: Path, files: FileSystem) -> Path:
    """Copy a damaged file before it is cut, under a name that is still free."""
    names = (f"{path.name}.damaged{number}" for number in ["", *(f"-{n}" for n in range(2, 1000))])
    copy = next(place for name in names if not (place := path.with_name(name)).exists())
    partial = path.with_name(f".{copy.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with open(new_file(partial, os.O_WRONLY), "wb") as file:
            file.write(path.read_bytes())
            file.flush()
            files.sync(file.fileno(), partial)
        files.place_new(partial, copy)
    finally:
        partial.unlink(missing_ok=True)
    files.sync_folder(path.parent)
    return copy


def _descriptor(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(file: BinaryIO, path: Path, files: FileSystem) -> None:
    for _ in range(_PROBES):
        try:
            files.lock(file.fileno(), path)
            return
        except BlockingIOError:
            # Perhaps only another program that looks whether it is open, which takes an instant.
            time.sleep(0.01)
    raise SessionError(
        f"session {path.stem} is open, here or in another program; leave it there first."
    )
