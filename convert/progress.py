"""How a conversion tells where it is: a bar on a terminal, lines elsewhere, events for programs."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """Silent; the base of the others."""

    def begin(self, nbytes: int, done: int = 0) -> None:
        """`nbytes` will be written, `done` of them were before."""

    def advance(self, nbytes: int) -> None:
        """So many more bytes."""

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        """One thing that happened: a line for people, an event for programs."""

    def end(self) -> None:
        """Whatever the outcome."""


class Lines(Progress):
    """Plain lines on stderr."""

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        print(line, file=sys.stderr, flush=True)


class Events(Progress):
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
        print(json.dumps({"event": event, **content}, ensure_ascii=False), flush=True)


class Screen(Progress):
    """Bytes, rate and remaining time in one line that is rewritten; other lines stay above it."""

    def __init__(self) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("converting", total=None)

    def begin(self, nbytes: int, done: int = 0) -> None:
        self._bar.update(self._task, total=nbytes, completed=done)
        self._bar.start()

    def advance(self, nbytes: int) -> None:
        self._bar.advance(self._task, nbytes)

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        self._bar.stop()


def progress_for(json_events: bool) -> Progress:
    """The one that suits what is on the other end."""
    if json_events:
        return Events()
    return Screen() if sys.stderr.isatty() else Lines()
