"""How a training run goes on, as one line on a terminal and as plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from dsv4_mlx.training.runs import StepFigures

_RECENT = 20  # steps that the rate and the time left are made from


def spoken(seconds: float) -> str:
    """A time left, in the two largest units of it: `2 h 05 min`, `3 min 20 s`, `8 s`."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class RunProgress:
    """Shows step, loss, tokens per second and time left; `with` it for as long as the run goes.

    A terminal gets a bar, other files a line every `every` steps. `tokens` is how many a step
    reads, where the figures of a step do not say it themselves as `tokens`.
    """

    def __init__(
        self,
        steps: int,
        *,
        tokens: int = 0,
        every: int = 10,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = Console(file=file, stderr=file is None)
        self._steps, self._tokens, self._every, self._clock = steps, tokens, every, clock
        self._recent: deque[tuple[float, float]] = deque([(clock(), 0.0)], maxlen=_RECENT + 1)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
                BarColumn(),
                TextColumn("{task.description}"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=self._steps)
            self._bar.start()
        self._recent[-1] = (self._clock(), 0.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, row: StepFigures) -> None:
        """Step number `step` (from 1) is done; `row` holds its `loss`."""
        earlier = self._recent[-1][1]
        self._recent.append((self._clock(), earlier + row.get("tokens", self._tokens)))
        text = self._figures(step, row)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif step % self._every == 0 or step == self._steps:
            print(f"step {step} of {self._steps}  {text}", file=self._console.file, flush=True)

    def _figures(self, step: int, row: StepFigures) -> str:
        (began, before), (now, after) = self._recent[0], self._recent[-1]
        count, seconds = len(self._recent) - 1, max(now - began, 1e-9)
        parts = [f"loss {row['loss']:.3f}"]
        if after > before:
            parts.append(f"{(after - before) / seconds:.0f} tokens/s")
        else:
            parts.append(f"{seconds / count:.1f} s per step")
        left = (self._steps - step) * seconds / count
        return ", ".join([*parts, f"{spoken(left)} left"])
