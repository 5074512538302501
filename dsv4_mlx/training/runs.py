"""Training runs: a folder each, which outlives a restart, and the loop that goes on in it.

A run is begun and continued by the same call. What every step draws follows from its number, so a
run that was stopped, or killed between two saves, goes on bit for bit as an unbroken one would.

    FOLDER/run.json             the settings it was begun with; others are refused
    FOLDER/state.safetensors    the trainer, as of the last save
    FOLDER/curve.csv            a row per logged step
    FOLDER/loss.svg             the curve as a picture
"""

from __future__ import annotations

import csv
import json
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import parse_object, read_object
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.training.plots import Curve, line_plot
from dsv4_mlx.training.trainer import Trainer

StepFigures = dict[str, float]
"""What is logged of a step: figures by column."""


_PLOTTED_ROWS = 400
_UNWRITTEN = {"workers": 1}  # what a setting was before runs had it


class StepListener(Protocol):
    """Who is told how a run goes on."""

    def update(self, step: int, row: StepFigures) -> None:
        """Step number `step` is done; `row` holds its figures, `loss` among them."""


class TrainingRun:
    """A run's folder. `settings` say what is trained: JSON values that a continuation repeats.

    Raises UsageError where the folder holds a run with other settings, or where another program
    trains in it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None):
        self.folder = folder
        self._files = FileSystem()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._locked()
        self.stopped = False
        """Whether a signal asked to end after the current step."""
        if settings is not None:
            try:
                self._agree(parse_object(json.dumps(settings)))
            except BaseException:
                self.close()
                raise

    @property
    def state(self) -> Path:
        """The file of the trainer."""
        return self.folder / "state.safetensors"

    def _locked(self) -> int:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._files.lock(descriptor, self.folder)
        except BlockingIOError:
            os.close(descriptor)
            raise UsageError(
                f"expected a run of nobody else but another program trains in {self.folder}; "
                "wait for it, or name another folder."
            ) from None
        return descriptor

    def close(self) -> None:
        """Let other programs train in the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _agree(self, settings: dict[str, Any]) -> None:
        path = self.folder / "run.json"
        if not path.exists():
            if self.state.exists():
                raise CheckpointError(
                    f"expected {path} beside a trainer's state but it is not there; "
                    "put it back, or name another folder."
                )
            self._write(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
            return
        begun = read_object(path)
        for name in sorted(begun.keys() | settings.keys()):
            earlier, now = (one.get(name, _UNWRITTEN.get(name)) for one in (begun, settings))
            if earlier != now:
                raise UsageError(
                    f"expected {name} {earlier!r}, with which the run in {self.folder} was "
                    f"begun, but found {now!r}; repeat it, or name another folder."
                )

    def _write(self, path: Path, text: str) -> None:
        temporary = path.with_name("partial-" + path.name)
        temporary.write_text(text, encoding="utf-8")
        self._files.replace(temporary, path)

    @property
    def steps(self) -> int:
        """Steps that are kept: 0 for a run that was not saved yet."""
        return Trainer.saved_steps(self.state) if self.state.exists() else 0

    def save(self, trainer: Trainer) -> None:
        """Keep the trainer; the earlier state is replaced when the new one is whole."""
        trainer.save(self.state)

    def load(self, trainer: Trainer) -> bool:
        """Continue where the run stopped: False, and the trainer as it is, where none began.

        Rows of steps after the kept one are dropped from the curve: they are trained again.
        """
        if not self.state.exists():
            self._keep_rows(0)
            return False
        trainer.load(self.state)
        self._keep_rows(trainer.steps)
        return True

    def log(self, row: StepFigures) -> None:
        """Append a row to the curve; it has a `step`, and the columns of the first row."""
        path = self.folder / "curve.csv"
        fields = self._fields() or list(row)
        if set(fields) != set(row):
            raise UsageError(
                f"expected the columns {', '.join(fields)} of {path} but found {', '.join(row)}; "
                "log the same figures at every step."
            )
        fresh = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow({name: repr(row[name]) for name in fields})

    def curve(self) -> list[StepFigures]:
        """Every logged row, oldest first."""
        path = self.folder / "curve.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [{name: float(v) for name, v in row.items()} for row in csv.DictReader(file)]

    def _fields(self) -> list[str]:
        path = self.folder / "curve.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])

    def _keep_rows(self, steps: int) -> None:
        """Rows up to step `steps`, a half-written last line not among them."""
        path = self.folder / "curve.csv"
        if not path.exists():
            return
        header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        at = header.rstrip("\n").split(",").index("step")
        whole = (line for line in lines if line.endswith("\n"))
        kept = [line for line in whole if float(line.split(",")[at]) <= steps]
        if kept:
            self._write(path, header + "".join(kept))
        else:
            path.unlink()

    def plot(self, columns: tuple[str, ...] = ("loss",), name: str = "loss") -> Path:
        """Draw columns of the curve over the steps as FOLDER/NAME.svg, thinned to some hundreds."""
        rows = self.curve()
        rows = rows[:: max(1, len(rows) // _PLOTTED_ROWS)]
        curves = [Curve(c, [(row["step"], (row[c],)) for row in rows]) for c in columns]
        path = self.folder / f"{name}.svg"
        self._write(path, line_plot(self.folder.name, "step", name, curves))
        return path

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM set `stopped`; a second one ends the program at once."""

        def asked(number: int, _: object) -> None:
            if self.stopped:
                signal.signal(number, earlier[signal.Signals(number)])
                signal.raise_signal(number)
            self.stopped = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        earlier = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, asked)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, earlier[number])

    def go_on(
        self,
        trainer: Trainer,
        steps: int,
        step: Callable[[int], StepFigures],
        *,
        save_every: int = 20,
        log_every: int = 1,
        saved: Callable[[], None] = lambda: None,
        progress: StepListener | None = None,
    ) -> bool:
        """Train up to `steps` steps, from where the run stopped; False where a signal ended it.

        `step(n)` makes step n (from 0) with `trainer`, drawing all that it draws from n, and gives
        its figures, `loss` among them. The trainer is saved every `save_every` steps, at the end
        and on SIGINT or SIGTERM, after the step in hand; `saved` is called each time.
        """
        self.load(trainer)
        kept = trainer.steps if self.state.exists() else -1
        with self.signals():
            while trainer.steps < steps and not self.stopped:
                row = step(trainer.steps)
                done = trainer.steps
                if progress is not None:
                    progress.update(done, row)
                if done % log_every == 0 or done == steps:
                    self.log({"step": done, **row})
                if done % save_every == 0:
                    self._keep(trainer, saved)
                    kept = done
            if kept != trainer.steps:
                self._keep(trainer, saved)
        return trainer.steps >= steps

    def _keep(self, trainer: Trainer, saved: Callable[[], None]) -> None:
        self.save(trainer)
        if any(math.isfinite(row["loss"]) for row in self.curve()):
            self.plot()
        saved()
