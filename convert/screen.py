"""How far a conversion is, drawn on a terminal; one that is gone holds up nothing."""

from contextlib import suppress
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

from convert.progress import ProgressDisplay
from dsv4_mlx.files.paths import printable


class Screen(ProgressDisplay):
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
        with suppress(OSError):
            self._bar.start()

    def advance(self, nbytes: int) -> None:
        self._bar.advance(self._task, nbytes)

    def say(self, line: str, event: str = "note", **content: Any) -> None:
        with suppress(OSError):
            self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        with suppress(OSError):
            self._bar.stop()
