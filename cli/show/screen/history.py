"""What was sent before, in a file for its owner alone: one JSON value on each line.

A string is what was typed; with pastes in it, it is a list as cli/show/screen/paste.py describes.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import History

from cli.kept.private_files import private_folder, write_whole
from cli.show.screen.paste import Parts, is_parts, length
from dsv4_mlx.files.documents import DocumentError, parse_json
from dsv4_mlx.files.file_systems import FileSystem

KEPT = 2_000
"""Entries that are offered; the file is cut to them when it has twice as many."""
_LONGEST = 100_000
"""Characters; a longer message is not worth keeping here, conversations keep it."""
_MOST_BYTES = 64 << 20
"""Of a file; its end is read."""


class FileHistory(History):
    """prompt-toolkit's history on a file that may be missing, damaged or not writable; None keeps
    it in memory alone."""

    def __init__(
        self,
        file: Path | None,
        *,
        restored: Callable[[Parts], str] = str,
        parts: Callable[[str], Parts] = str,
    ) -> None:
        """`restored` gives the input for an entry, `parts` the entry for an input."""
        super().__init__()
        self._file = file
        self._restored = restored
        self._parts = parts

    def load_history_strings(self) -> Iterable[str]:
        """Newest first, each text once."""
        entries = self._entries()
        if len(entries) > 2 * KEPT:
            self._rewrite(entries[-KEPT:])
        newest_first = reversed(entries[-KEPT:])
        return list(dict.fromkeys(self._restored(entry) for entry in newest_first if entry))

    def append_string(self, string: str) -> None:
        """Remember `string`; the same text again moves to the end."""
        if string in self._loaded_strings:
            self._loaded_strings.remove(string)
        super().append_string(string)

    def store_string(self, string: str) -> None:
        """Append to the file; a history that cannot be kept is no reason to stop."""
        parts = self._parts(string)
        if self._file is None or length(parts) > _LONGEST:
            return
        with suppress(OSError):
            private_folder(self._file.parent, FileSystem())
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # One write, so that two programs never mix their lines.
                os.write(descriptor, _line(parts))
            finally:
                os.close(descriptor)

    def _entries(self) -> list[Parts]:
        lines = self._lines()
        found = [_decoded(line) for line in lines]
        entries = [entry for entry in found if entry is not None]
        if len(entries) < len(lines):
            self._set_aside(entries)
        return entries

    def _lines(self) -> list[bytes]:
        if self._file is None or not os.path.isfile(self._file):
            return []
        try:
            with open(self._file, "rb") as file:
                beginning = max(0, file.seek(0, os.SEEK_END) - _MOST_BYTES)
                file.seek(beginning)
                lines = file.read(_MOST_BYTES).splitlines()
        except OSError:
            return []
        # The first of a part is cut somewhere.
        return [line for line in lines[1 if beginning else 0 :] if line.strip()]

    def _set_aside(self, entries: list[Parts]) -> None:
        """Begin anew with what can be read; the damaged file stays under another name."""
        assert self._file is not None
        with suppress(OSError):
            os.rename(self._file, self._file.with_name(f"{self._file.name}.damaged"))
            write_whole(self._file, b"".join(map(_line, entries)))

    def _rewrite(self, entries: list[Parts]) -> None:
        assert self._file is not None
        with suppress(OSError):
            write_whole(self._file, b"".join(map(_line, entries)), overwrite=True)


def _line(entry: Parts) -> bytes:
    return json.dumps(entry).encode("ascii") + b"\n"


def _decoded(line: bytes) -> Parts | None:
    """A torn or foreign line is nobody's message."""
    try:
        entry = parse_json(line)
    except DocumentError:
        return None
    return entry if is_parts(entry) else None
