"""Writing a file: asks each time, with the difference to what is there, and writes it whole."""

import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.tools.approval import Action, Approvals
from cli.tools.difference import unified
from cli.tools.tool import Tool, ToolError, parameters
from cli.tools.workspace import ResolvedPath, Workspace, sentence
from dsv4_mlx.files.file_systems import NO_REPLACE, FileSystem

LARGEST_TEXT = 1 << 20
"""Characters of a file that the model writes, and bytes of one that it replaces."""


def writing_tool(workspace: Workspace, approvals: Approvals) -> Tool:
    """`write_file`."""
    return Tool(
        "write_file",
        "Write a text file, new or in place of the whole old one. The user is asked first.",
        parameters(
            ("path", "content"),
            path={"type": "string", "description": "Path, relative to the working folder."},
            content={
                "type": "string",
                "maxLength": LARGEST_TEXT,
                "description": "The whole new text.",
            },
        ),
        _Writer(workspace, approvals).write_file,
    )


@dataclass(frozen=True)
class _Present:
    """What is there before writing, to tell whether it is still the same afterwards."""

    content: bytes
    identity: tuple[int, ...]
    mode: int


class _Writer:
    """The tool on one working folder."""

    def __init__(self, workspace: Workspace, approvals: Approvals) -> None:
        self._workspace = workspace
        self._approvals = approvals

    def write_file(self, arguments: Mapping[str, Any]) -> str:
        place = self._workspace.place(arguments["path"])
        content = arguments["content"]
        try:
            new = content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ToolError("The content has half a surrogate pair in it.") from error
        present = self._present(place) if place.is_inside else self._allowed(place, content)
        if present is not None and present.content == new:
            return f"{place} already has this content; nothing was written."
        if place.is_inside:
            self._approvals.require(_action(place, present, content))
        self._write(place, present, new)
        done = "written" if present is None else "replaced"
        return f"{place} was {done}, {len(new):,} bytes."

    def _allowed(self, place: ResolvedPath, content: str) -> _Present | None:
        """`_present` outside the working folder: nothing about it is told without a yes."""
        try:
            present = self._present(place)
        except (ToolError, OSError) as error:
            self._approvals.require(_hopeless(place, str(error)))
            raise
        self._approvals.require(_action(place, present, content))
        return present

    def _present(self, place: ResolvedPath) -> _Present | None:
        """The file that is there, or None; ToolError when it cannot be replaced."""
        if not os.path.lexists(place.path):
            return None
        with self._workspace.open_file(place) as file:
            found = os.fstat(file.fileno())
            if found.st_size > LARGEST_TEXT:
                raise ToolError(f"{place} has more than {LARGEST_TEXT:,} bytes; it stays as it is.")
            content = file.read(LARGEST_TEXT + 1)
        if not os.access(place.path, os.W_OK):
            raise ToolError(f"{place} may not be written to.")
        return _Present(content, _identity(found), stat.S_IMODE(found.st_mode))

    def _write(self, place: ResolvedPath, present: _Present | None, new: bytes) -> None:
        """Beside the old file first, then in its place, unless that changed since the question."""
        folder = self._workspace.open_folder(place, create=True)
        # A name of a fixed length, since that of the file may be as long as names can be.
        partial = f".dsv4-{os.getpid()}-{os.urandom(6).hex()}.partial"
        try:
            _write_new(partial, new, present.mode if present else 0o666, folder)
            if _identity_in(folder, place.path.name) != (present.identity if present else None):
                raise ToolError(f"{place} changed meanwhile; nothing was written.")
            _give_name(partial, place.path.name, folder)
        except OSError as error:
            raise sentence(error, place) from error
        finally:
            _remove(partial, folder)
            os.close(folder)


def _action(place: ResolvedPath, present: _Present | None, content: str) -> Action:
    folder = place.folder
    where = "" if place.is_inside else " outside the working folder"
    where += "" if os.path.isdir(folder) else f", in the new folder {folder}"
    details = [str(place), *unified(present.content if present else None, content, str(place))]
    question = f"replace this file{where}?" if present else f"write a new file{where}?"
    return _asked(place, question, details)


def _hopeless(place: ResolvedPath, reason: str) -> Action:
    """Writing where it will fail, which the model may learn only after a yes."""
    question = "try to write outside the working folder, which will fail, and tell the model why?"
    return _asked(place, question, [str(place), reason])


def _asked(place: ResolvedPath, question: str, details: Sequence[str]) -> Action:
    return Action(
        question,
        tuple(details),
        f"write files in {place.folder}, not below it",
        ("write_file", str(place.folder)),
    )


def _write_new(name: str, content: bytes, mode: int, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(name, flags, 0o666, dir_fd=folder), "wb") as file:
        if mode != 0o666:
            with suppress(OSError):  # a file system without modes
                os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        FileSystem().sync(file.fileno(), Path(name))


def _give_name(partial: str, name: str, folder: int) -> None:
    """Rename over what is there; where that cannot be done, what is there moves aside first."""
    try:
        os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    except OSError as error:
        if error.errno not in NO_REPLACE or _identity_in(folder, name) is None:
            raise
    aside = f"{partial}.old"
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        raise
    os.unlink(aside, dir_fd=folder)


def _identity_in(folder: int, name: str) -> tuple[int, ...] | None:
    try:
        return _identity(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
