"""What was said, on disk: a line for each reply, written before its answer ends.

A line is whole or it is not read, so a kill costs at most the reply that was being written. The
file is made anew, without what the memory forgot, when it has grown to about twice of what is
remembered.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from dsv4_mlx.files.documents import DocumentError, parse_json
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.serving.said import SaidMemory, SaidReply

FILE: Final = "said.jsonl"
LEAST_SPARE: Final = 1000
_TEXTS = ("reasoning", "visible", "before")


class SaidLog:
    """The file of a memory of what was said; for the model's thread."""

    def __init__(self, path: Path, memory: SaidMemory) -> None:
        """Let `memory` know what the file at `path` knows; OSError where it cannot be read."""
        self._path, self._memory = path, memory
        if recall(path, memory) > 2 * len(memory):
            self._write_anew()
        self._left = self._spare

    def add(self, owner: str, reply: SaidReply) -> None:
        """Remember `reply` and write it down; a disk that is full costs the line."""
        self._memory.remember(owner, reply)
        line = _line(owner, reply).encode()
        try:
            file = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.write(file, b"\n" + line if self._is_torn() else line)
            finally:
                os.close(file)
        except OSError:
            return
        self._left -= 1
        if not self._left:
            with suppress(OSError):  # a disk that has no room now is asked as much later
                self._write_anew()
            self._left = self._spare

    @property
    def _spare(self) -> int:
        """Lines that may be added before the file is made anew."""
        return max(LEAST_SPARE, len(self._memory))

    def _is_torn(self) -> bool:
        """Whether the last line was not written to its end."""
        with self._path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _write_anew(self) -> None:
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        files = FileSystem()
        try:
            with os.fdopen(
                os.open(partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w"
            ) as file:
                for owner, reply in self._memory:
                    file.write(_line(owner, reply))
                file.flush()
                files.sync(file.fileno(), partial)
            files.replace(partial, self._path)
        finally:
            partial.unlink(missing_ok=True)


def recall(path: Path, memory: SaidMemory) -> int:
    """Let `memory` know what the file at `path` knows, if there is one; its lines. OSError where it
    cannot be read."""
    lines = 0
    with suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            lines += 1
            if (found := _read(line)) is not None:
                memory.remember(*found)
    return lines


def _line(owner: str, reply: SaidReply) -> str:
    content = {
        "owner": owner,
        "thought": list(reply.thought),
        "answer": list(reply.answer),
        "calls": list(reply.call_ids),
        **{name: getattr(reply, name) for name in _TEXTS},
    }
    return json.dumps(content, separators=(",", ":")) + "\n"


def _read(line: str) -> tuple[str, SaidReply] | None:
    """The owner and the reply of a line; None for one that is damaged."""
    try:
        found: Any = parse_json(line)
        thought, answer, calls = (found[name] for name in ("thought", "answer", "calls"))
        owner, texts = found["owner"], {name: found[name] for name in _TEXTS}
    except (DocumentError, KeyError, TypeError):
        return None
    lists = [thought, answer, calls]
    if not all(isinstance(one, list) for one in lists) or not isinstance(owner, str):
        return None
    numbers = all(type(token) is int and token >= 0 for token in (*thought, *answer))
    words = all(isinstance(text, str) for text in (*texts.values(), *calls))
    if not (numbers and words):
        return None
    return owner, SaidReply(tuple(thought), tuple(answer), **texts, call_ids=tuple(calls))
