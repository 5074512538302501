"""Reading and listing files, inside the working folder freely, elsewhere when a person agrees."""

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from cli.tools.approval import Action, Approvals
from cli.tools.tool import LONGEST_RESULT, Tool, ToolError, characters, parameters
from cli.tools.workspace import ResolvedPath, Workspace, sentence

MOST_ENTRIES = 1_000
LONGEST_LINE = 10_000
"""Characters of one line of a file; more of a line is cut, and said so."""
LARGEST_READ = 64 << 20
"""Bytes of a file that are looked through for the asked lines."""

_PATH = {"type": "string", "description": "Path, relative to the working folder."}


def reading_tools(workspace: Workspace, approvals: Approvals) -> list[Tool]:
    """`read_file` and `list_folder`."""
    reader = _Reader(workspace, approvals)
    return [
        Tool(
            "read_file",
            "Read a text file, or some of its lines. Long files come in pieces.",
            parameters(
                ("path",),
                path=_PATH,
                first_line={"type": "integer", "minimum": 1, "description": "Default 1."},
                lines={"type": "integer", "minimum": 1, "description": "How many; default all."},
            ),
            reader.read_file,
        ),
        Tool(
            "list_folder",
            "List a folder's files with their sizes; names of folders end with a slash.",
            parameters((), path={**_PATH, "description": "Default: the working folder."}),
            reader.list_folder,
        ),
    ]


def allow_outside(place: ResolvedPath, name: str, verb: str, approvals: Approvals) -> None:
    """Ask when `place` lies outside the working folder; ToolError when that is refused."""
    if place.is_inside:
        return
    folder = place.path if name != "read_file" else place.folder
    approvals.require(
        Action(
            f"{verb} outside the working folder?",
            (str(place),),
            f"{verb} in {folder}, not below it",
            (name, str(folder)),
        )
    )


class _Reader:
    """The two tools on one working folder."""

    def __init__(self, workspace: Workspace, approvals: Approvals) -> None:
        self._workspace = workspace
        self._approvals = approvals

    def read_file(self, arguments: Mapping[str, Any]) -> str:
        place = self._workspace.place(arguments["path"])
        allow_outside(place, "read_file", "read a file", self._approvals)
        with self._workspace.open_file(place) as file:
            size = os.fstat(file.fileno()).st_size
            first = int(arguments.get("first_line", 1))
            piece = _Piece(first, arguments.get("lines"))
            for number, line in _lines(file, place):
                if not piece.take(number, line):
                    break
        return piece.text(place, size)

    def list_folder(self, arguments: Mapping[str, Any]) -> str:
        place = self._workspace.place(arguments.get("path", "."))
        allow_outside(place, "list_folder", "list a folder", self._approvals)
        descriptor = self._workspace.open(place, os.O_RDONLY)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise ToolError(f"{place} is no folder.")
            with os.scandir(descriptor) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            lines = [_entry(entry, descriptor) for entry in entries[:MOST_ENTRIES]]
        except OSError as error:
            raise sentence(error, place) from error
        finally:
            os.close(descriptor)
        if len(entries) > MOST_ENTRIES:
            lines.append(f"[cut here: {len(entries) - MOST_ENTRIES:,} more entries]")
        return "\n".join(lines) if lines else f"{place} is empty."


class _Piece:
    """The asked lines of a file, as many of them as a result may have."""

    def __init__(self, first: int, count: int | None) -> None:
        self._first = first
        self._last = None if count is None else first + count - 1
        self._kept: list[str] = []
        self._length = 0
        self._following = 0
        """The line to go on with, when it was cut for its length."""
        self._seen = 0

    def take(self, number: int, line: str) -> bool:
        """Keep one line; False when no more are wanted."""
        self._seen = number
        if number < self._first:
            return True
        if self._length + len(line) > LONGEST_RESULT and self._kept:
            self._following = number
            return False
        self._kept.append(line)
        self._length += len(line)
        return number != self._last

    def text(self, place: ResolvedPath, size: int) -> str:
        if not self._seen:
            return f"{place} is empty."
        if not self._kept:
            return f"{place} has only {self._seen:,} lines."
        text = "".join(self._kept)
        if self._following:
            text += f"\n[cut here, of {size:,} bytes; go on with first_line = {self._following}]"
        return text


def _lines(file: BinaryIO, place: ResolvedPath) -> Iterator[tuple[int, str]]:
    """The numbered lines of a text file, none of them longer than LONGEST_LINE."""
    read = number = 0
    while line := file.readline(LARGEST_READ):
        number, read = number + 1, read + len(line)
        if read > LARGEST_READ:
            raise ToolError(f"{place} is longer than {LARGEST_READ:,} bytes; search in it instead.")
        yield number, _text_line(line, place)


def _text_line(line: bytes, place: ResolvedPath) -> str:
    if b"\0" in line:
        raise ToolError(f"{place} is no text file: it has NUL bytes in it.")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ToolError(f"{place} is no UTF-8 text.") from error
    if len(text) <= LONGEST_LINE:
        return text
    return f"{text[:LONGEST_LINE]} [line cut: {len(text) - LONGEST_LINE:,} more characters]\n"


def _entry(entry: "os.DirEntry[str]", folder: int) -> str:
    name = characters(entry.name).replace("\n", "\\n")
    if entry.is_symlink():
        try:
            target = characters(os.readlink(entry.name, dir_fd=folder)).replace("\n", "\\n")
        except OSError:
            target = "?"
        return f"{name} -> {target}"
    if entry.is_dir(follow_symlinks=False):
        return f"{name}/"
    try:
        return f"{name}  {entry.stat(follow_symlinks=False).st_size:,} bytes"
    except OSError:
        return name
