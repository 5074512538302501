"""What was sent before, in a file for its owner alone: one JSON string on each line."""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import History

KEPT = 2_000
"""Entries that are offered; the file is cut to them when it has twice as many."""
_LONGEST = 100_000
"""Characters; a longer message is not worth keeping here, conversations keep it."""


class FileHistory(History):
    """prompt-toolkit's history on a file that may be missing, damaged or not writable."""

    def __init__(
        self,
        file: Path,
        *,
        fold: Callable[[str], str] = str,
        expand: Callable[[str], str] = str,
    ) -> None:
        """`fold` makes an entry short enough to be edited, `expand` undoes that."""
        super().__init__()
        self._file = file
        self._fold = fold
        self._expand = expand

    def load_history_strings(self) -> Iterable[str]:
        """Newest first, each text once."""
        entries = self._entries()
        if len(entries) > 2 * KEPT:
            self._rewrite(entries[-KEPT:])
        newest_first = dict.fromkeys(reversed(entries[-KEPT:]))
        return [self._fold(entry) for entry in newest_first]

    def append_string(self, string: str) -> None:
        """Remember `string`; the same text again moves to the end."""
        if string in self._loaded_strings:
            self._loaded_strings.remove(string)
        super().append_string(string)

    def store_string(self, string: str) -> None:
        """Append to the file; a history that cannot be kept is no reason to stop."""
        text = self._expand(string)
        if len(text) > _LONGEST:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            line = json.dumps(text).encode("ascii") + b"\n"
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                # One write, so that two programs never mix their lines.
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError:
            pass

    def _entries(self) -> list[str]:
        try:
            lines = self._file.read_bytes().splitlines()
        except OSError:
            return []
        return [entry for line in lines if (entry := _decoded(line))]

    def _rewrite(self, entries: list[str]) -> None:
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.writelines(json.dumps(entry) + "\n" for entry in entries)
            os.replace(new, self._file)
        except OSError:
            new.unlink(missing_ok=True)


def _decoded(line: bytes) -> str | None:
    """A torn or foreign line is nobody's message."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, str) else None
