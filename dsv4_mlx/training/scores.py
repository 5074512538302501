"""How many held-out tasks a stage gets right, before it, now and then, and afterwards.

The prompts are the same in every run. Each is answered once greedily and several times by sampling,
as in training; a score is the share of right answers.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dsv4_mlx.chat.effort import ThinkingMode
from dsv4_mlx.training.data.task import Kind
from dsv4_mlx.training.plots import Curve, line_plot
from dsv4_mlx.training.stage import Stage

_SEED = 20_000
_GROUP = 4
_MODES: tuple[ThinkingMode, ...] = ("chat", "thinking")


@dataclass(frozen=True)
class HeldOutScore:
    """A row of scores.csv: shares of right answers to `prompts` tasks of a kind and mode."""

    step: int
    model: str
    kind: str
    mode: str
    prompts: int
    greedy: float
    sampled: float

    @property
    def name(self) -> str:
        return f"{self.model}, {self.kind}, {self.mode}"


class Scores:
    """RUN/scores.csv and scores.svg of a stage; `prompts` tasks of each of `kinds`."""

    def __init__(self, stage: Stage, kinds: Sequence[Kind], prompts: int):
        self._stage = stage
        self._asked = [
            task for kind in kinds for task in stage.drawn_tasks([kind], "held_out", _SEED, prompts)
        ]
        self._path = stage.folder / "scores.csv"
        self.rows: list[HeldOutScore] = []

    def load(self, steps: int) -> None:
        """Go on after step `steps`: scores of later steps are measured again."""
        self.rows = [row for row in read_scores(self._path) if row.step <= steps]

    def measure(self, step: int, model: str = "student") -> None:
        """Score the weights that answer now, unless `load` found that it was done."""
        if any((row.step, row.model) == (step, model) for row in self.rows):
            return
        greedy, sampled = self._right(1), self._right(_GROUP)
        for kind in dict.fromkeys(task.kind for task in self._asked):
            for mode in _MODES:
                own = [
                    i
                    for i, task in enumerate(self._asked)
                    if (task.kind, task.thinking_mode) == (kind, mode)
                ]
                if own:
                    shares = [sum(right[i] for i in own) / len(own) for right in (greedy, sampled)]
                    self.rows.append(HeldOutScore(step, model, kind, mode, len(own), *shares))
        self._write()

    def _right(self, group: int) -> list[float]:
        """Per task the share of its answers that are right."""
        groups = self._stage.answers(self._asked, group=group, seed=_SEED, greedy=group == 1)
        judged = self._stage.judged(self._asked, groups)
        return [sum(one.is_right for one in verdicts) / group for verdicts in judged]

    def _write(self) -> None:
        partial = self._path.with_name("partial-scores.csv")
        with partial.open("w", newline="", encoding="utf-8") as file:
            names = [field.name for field in fields(HeldOutScore)]
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)
        partial.replace(self._path)
        curves = [
            Curve(name, [(row.step, [100 * row.sampled]) for row in self.rows if row.name == name])
            for name in dict.fromkeys(row.name for row in self.rows)
        ]
        picture = line_plot("Held-out tasks", "update", "right, % of sampled answers", curves)
        self._path.with_suffix(".svg").write_text(picture, encoding="utf-8")

    def told(self) -> list[str]:
        """A line for every kind and mode: the first score and the last."""
        lines = []
        for name in dict.fromkeys(row.name for row in self.rows):
            own = [row for row in self.rows if row.name == name]
            shown = own if len(own) == 1 else [own[0], own[-1]]
            figures = (
                f"step {row.step} {row.sampled:.1%} (greedily {row.greedy:.1%})" for row in shown
            )
            lines.append(f"{name}, {own[0].prompts} prompts: {', '.join(figures)}")
        return lines


def read_scores(path: Path) -> list[HeldOutScore]:
    """The rows of a scores.csv; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            HeldOutScore(
                int(row["step"]),
                row["model"],
                row["kind"],
                row["mode"],
                int(row["prompts"]),
                float(row["greedy"]),
                float(row["sampled"]),
            )
            for row in csv.DictReader(file)
        ]
