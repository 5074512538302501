"""How a conversion tells where it is: a bar on a terminal, lines elsewhere, events for programs."""

import json
from typing import Any

from convert.output import emit, tell


class ProgressDisplay:
    """Silent; the base of the others."""

    def begin(self, nbytes: int, done: int = 0) -> None:
        """`nbytes` will be written, `done` of them were before."""

    def advance(self, nbytes: int) -> None:
        """So many more bytes."""

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        """One thing that happened: a line for people, an event for programs."""

    def end(self) -> None:
        """Whatever the outcome."""


class Lines(ProgressDisplay):
    """Plain lines on stderr."""

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        tell(line)


class Events(ProgressDisplay):
    """One JSON object per line on stdout, and a progress event for every hundredth."""

    def __init__(self) -> None:
        self._total = self._done = self._told = 0

    def begin(self, nbytes: int, done: int = 0) -> None:
        self._total, self._done, self._told = nbytes, done, done
        self._write("begin", bytes=nbytes, done=done)

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._done - self._told >= self._total / 100:
            self._told = self._done
            self._write("progress", done=self._done, bytes=self._total)

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        self._write(event, **(content or {"text": line}))

    def _write(self, event: str, **content: Any) -> None:
        emit(json.dumps({"event": event, **content}))
