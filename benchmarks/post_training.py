"""What runs of post-training reached: GRPO's rewards before and after, students beside experts.

    python -m benchmarks.post_training RUN...

adds what it finds in folders of `dsv4_mlx.training.post` to results/post_training.csv (shares of
held-out tasks that were right) and results/post_training_curves.csv (means of ten updates), what
is there already excepted; docs/claims.md tells it. Runs with one setting and other seeds belong
together.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.quantised import NAMES
from benchmarks.record import earlier, record
from dsv4_mlx.training.plots import Curve, line_plot
from dsv4_mlx.training.stage import DOMAINS

Row = Mapping[str, Any]
_RUN: Final = ("stage", "expert", "setting", "seed", "start")
_SCORES: Final = ("step", "model", "kind", "mode", "prompts", "greedy", "sampled")
_CURVES: Final = ("reward", "right", "kl", "entropy")
_TOLD: Final = ("steps", "prompts", "group", "peak", "kl_weight")
_MEAN_OF: Final = 10


def rows_of(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The held-out scores of a run and its curve, by the columns of their tables."""
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))
    same = {
        "stage": settings["stage"],
        "expert": settings.get("expert", ""),
        "setting": " ".join(f"{name}={settings[name]}" for name in _TOLD if name in settings),
        "seed": settings["seed"],
        "start": str(settings.get("start", settings.get("base", "")))[:8],
    }
    with (run / "scores.csv").open(newline="", encoding="utf-8") as file:
        scores = [same | dict(row) for row in csv.DictReader(file)]
    with (run / "curve.csv").open(newline="", encoding="utf-8") as file:
        curve = list(csv.DictReader(file))
    points = []
    for first in range(0, len(curve) - _MEAN_OF + 1, _MEAN_OF):
        part = curve[first : first + _MEAN_OF]
        means = {
            name: round(sum(float(row[name]) for row in part) / _MEAN_OF, 5)
            for name in _CURVES
            if name in part[0]
        }
        points.append(same | {"step": part[-1]["step"]} | means)
    return [
        row | {key: _short(row[key]) for key in ("greedy", "sampled")} for row in scores
    ], points


def add(run: Path) -> int:
    """Record what the tables lack of a run; how many rows that were."""
    added = 0
    for name, fields, found in zip(
        ("post_training", "post_training_curves"),
        ((*_RUN, *_SCORES), (*_RUN, "step", *_CURVES)),
        rows_of(run),
        strict=True,
    ):
        key = [one for one in fields if one not in ("greedy", "sampled", *_CURVES)]
        known = {tuple(row[one] for one in key) for row in earlier(name)}
        fresh = [row for row in found if tuple(str(row[one]) for one in key) not in known]
        if fresh:
            settings = f"{found[0]['stage']} RUN {found[0]['expert']} {found[0]['setting']}"
            record(name, f"python -m dsv4_mlx.training.post {settings}", fresh, fields)
        added += len(fresh)
    return added


def grpo_table() -> str:
    """Held-out shares before and after every setting of GRPO, as a table of Markdown."""
    lines = [
        "| expert, setting | seeds | tasks | before | after | change, each seed | beyond spread |",
        "|---|--:|---|--:|--:|---|---|",
    ]
    for (expert, setting), runs in _settings(_finished("grpo")).items():
        for kind, mode in dict.fromkeys((row["kind"], row["mode"]) for row in runs):
            own = [row for row in runs if (row["kind"], row["mode"]) == (kind, mode)]
            pairs = [_ends(part) for part in _by(own, "seed").values()]
            before, after = (_percent([pair[at] for pair in pairs]) for at in (0, 1))
            changes = [100 * (last - first) for first, last in pairs]
            told = ", ".join(f"{change:+.1f}" for change in changes)
            cells = (
                f"{expert}, {setting}", len(pairs), f"{kind}, {NAMES[mode]}, {own[0]['prompts']}",
                before, after, told, is_beyond(changes),
            )  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No run of GRPO has ended yet."


def is_beyond(changes: Sequence[float]) -> str:
    """Whether the mean change is larger than the seeds lie apart; what one seed cannot say."""
    if len(changes) < 2:
        return "one seed"
    mean = sum(changes) / len(changes)
    return "yes" if mean > max(changes) - min(changes) else "no"


def students_table() -> str:
    """Every student before and after, beside the teacher of each domain, of Markdown."""
    lines = ["| tasks | teacher | student before | after | teacher's |", "|---|---|--:|--:|--:|"]
    teachers: dict[str, str] = {kind: name for name, kinds in DOMAINS.items() for kind in kinds}
    for (kind, mode), own in _by(_finished("distill"), "kind", "mode").items():
        models = {name: rows for (name,), rows in _by(own, "model").items()}
        ends = [_ends(part) for part in _by(models["student"], *_RUN).values()]
        before, after = (_percent([pair[at] for pair in ends]) for at in (0, 1))
        taught = models.get(teachers[kind], [])
        shares = [_ends(part)[0] for part in _by(taught, *_RUN).values()]
        what = f"{kind}, {NAMES[mode]}, {own[0]['prompts']} | {teachers[kind]}"
        lines.append(f"| {what} | {before} | {after} | {_percent(shares) if shares else ''} |")
    return "\n".join(lines) if len(lines) > 2 else "No distillation has ended yet."


def pictures() -> dict[str, str]:
    """SVG texts by file name: rewards and KL of GRPO, a line for each expert and setting."""
    drawn = {}
    runs = _settings(row for row in earlier("post_training_curves") if row["stage"] == "grpo")
    for measure, says in (("reward", "mean reward"), ("kl", "KL to the start, nats per token")):
        lines = [
            Curve(f"{expert}, {setting}", _points(rows, measure))
            for (expert, setting), rows in runs.items()
        ]
        if lines:
            title = f"GRPO: {says}, means of {_MEAN_OF} updates"
            drawn[f"grpo-{measure}.svg"] = line_plot(title, "update", says, lines)
    return drawn


def _finished(stage: str) -> list[Row]:
    """Scores of the stage's runs that came to their last step."""
    rows = [row for row in earlier("post_training") if row["stage"] == stage]
    whole = [
        run
        for run in _by(rows, *_RUN).values()
        if max(int(row["step"]) for row in run) == _steps(run[0])
    ]
    return [row for run in whole for row in run]


def _steps(row: Row) -> int:
    return int(str(row["setting"]).partition("steps=")[2].partition(" ")[0])


def _settings(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    return _by(rows, "expert", "setting")


def _by(rows: Iterable[Row], *names: str) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def _ends(rows: Sequence[Row]) -> tuple[float, float]:
    """The sampled share of the first step and of the last."""
    ordered = sorted(rows, key=lambda row: int(row["step"]))
    return float(ordered[0]["sampled"]), float(ordered[-1]["sampled"])


def _points(rows: Sequence[Row], measure: str) -> list[tuple[int, list[float]]]:
    points: dict[int, list[float]] = {}
    for row in rows:
        points.setdefault(int(row["step"]), []).append(float(row[measure]))
    return sorted(points.items())


def _percent(shares: Sequence[float]) -> str:
    mean = f"{100 * sum(shares) / len(shares):.1f}"
    if min(shares) == max(shares):
        return f"{mean} %"
    return f"{mean} % ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


def _short(share: str) -> str:
    return f"{float(share):.4f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Add runs to the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.post_training",
        description="Add what runs of post-training reached to benchmarks/results.",
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folder of a run")
    for run in parser.parse_args(arguments).runs:
        print(f"{run}: {add(run)} rows added")


if __name__ == "__main__":
    main()
