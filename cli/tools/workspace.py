"""The working folder, and files reached by exactly the path that was looked at.

A path is resolved first, symbolic links and `..` included, and what it leads to decides whether it
lies inside. Opening then walks that resolved path one folder at a time and follows no link, so a
link put there in between leads to a refusal and not to another file.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cli.tools.tool import ToolError, characters
from dsv4_mlx.errors import UsageError

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
# Nothing waits for the other end of a pipe, and no terminal becomes ours.
_CALM = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True)
class ResolvedPath:
    """What a path leads to: a resolved path, whether or not there is something."""

    path: Path
    is_inside: bool

    @property
    def folder(self) -> Path:
        """The folder it is in."""
        return self.path.parent

    def __str__(self) -> str:
        return characters(str(self.path))


class Workspace:
    """One working folder, held open. Raises UsageError when it cannot be opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        try:
            self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UsageError(
                f"Tools need a working folder, and {self.folder} cannot be opened: "
                f"{error.strerror}; start in another one."
            ) from error

    def close(self) -> None:
        """Let the folder go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def place(self, path: str) -> ResolvedPath:
        """Where `path` leads, from the working folder on; ToolError if it is no path."""
        if not path or "\0" in path:
            raise ToolError(f"A path must be a text without NUL, got {path!r}.")
        try:
            written = os.path.join(self.folder, os.path.expanduser(path))
            resolved = Path(os.path.realpath(written))
        except (OSError, ValueError, RuntimeError) as error:
            raise ToolError(f"{path} is no path that leads anywhere: {error}.") from error
        return ResolvedPath(resolved, resolved.is_relative_to(self.folder))

    def open(
        self, place: ResolvedPath, flags: int = os.O_RDONLY, *, create_folders: bool = False
    ) -> int:
        """A descriptor of exactly `place`."""
        if place.path in (self.folder, Path("/")):
            start = self._start(place)
            try:
                return os.open(".", flags | _CALM, dir_fd=start)
            finally:
                os.close(start)
        parent = self.open_folder(place, create=create_folders)
        try:
            return os.open(place.path.name, flags | _CALM, dir_fd=parent)
        except OSError as error:
            raise sentence(error, place) from error
        finally:
            os.close(parent)

    def open_file(self, place: ResolvedPath) -> BinaryIO:
        """The ordinary file at exactly `place`, to read; ToolError if there is none."""
        descriptor = self.open(place)
        try:
            _require_file(descriptor, place)
        except ToolError:
            os.close(descriptor)
            raise
        return open(descriptor, "rb")

    def open_folder(self, place: ResolvedPath, *, create: bool = False) -> int:
        """A descriptor of the folder that `place` is in, made where it is missing if `create`."""
        base = self.folder if place.is_inside else Path("/")
        current = self._start(place)
        for name in place.folder.relative_to(base).parts:
            try:
                if create:
                    _make(name, current)
                following = os.open(name, _FOLDER, dir_fd=current)
            except OSError as error:
                raise sentence(error, place) from error
            finally:
                os.close(current)
            current = following
        return current

    def _start(self, place: ResolvedPath) -> int:
        if place.is_inside:
            return os.dup(self._descriptor)
        return os.open("/", os.O_RDONLY | os.O_DIRECTORY)


def _make(name: str, parent: int) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return


def _require_file(descriptor: int, place: ResolvedPath) -> None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise ToolError(f"{place} is a folder.")
    if not stat.S_ISREG(mode):
        raise ToolError(f"{place} is no ordinary file.")


def sentence(error: OSError, place: ResolvedPath) -> ToolError:
    """An operating system's error about `place` for the model."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ToolError(f"{place} cannot be reached: a part of the path is no folder or a link.")
    return ToolError(f"{place}: {error.strerror}.")
