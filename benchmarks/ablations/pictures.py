"""What the finished runs say: a table and pictures, from results/ablations.csv and its curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from benchmarks.ablations.arms import ARMS
from benchmarks.ablations.run import Plan
from benchmarks.record import earlier
from dsv4_mlx.training.plots import Bar, Curve, bar_plot, line_plot

Row = Mapping[str, str]
MEASURES = {
    "text_loss": "next-token loss on held-out text, nats",
    "fact_recall": "facts recalled in an unseen wording, share",
    "needle_recall": "needles recalled from beyond the window, share",
}


def compared(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of every arm, in the order of the arms, of the longest runs that `base` has.

    Shorter and longer runs are other comparisons: rates fall by the planned number of steps.
    """
    rows = list(rows)
    steps = max((int(row["steps"]) for row in rows if row["arm"] == "base"), default=0)
    chosen = {
        name: [r for r in rows if r["arm"] == name and int(r["steps"]) == steps] for name in ARMS
    }
    return {name: found for name, found in chosen.items() if found}


def values(rows: Iterable[Row], measure: str) -> list[float]:
    return [float(row[measure]) for row in rows]


def spread(found: list[float]) -> str:
    """`1.23 (1.20 to 1.25)`, or the one value that there is."""
    mean = f"{sum(found) / len(found):.3f}"
    return mean + (f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else "")


def table() -> str:
    """The runs as a table of Markdown; arms without a run say so."""
    arms = compared(earlier("ablations"))
    lines = [
        "| arm | seeds | steps | parameters, active | loss | facts | needles | CPU minutes a run |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, arm in ARMS.items():
        rows = arms.get(name, [])
        if not rows:
            done = reached(name, arms)
            said = f"stopped at step {done}" if done else "not run"
            lines.append(f"| {name}: {arm.says} | 0 | | | {said} | {said} | {said} | |")
            continue
        sizes = f"{int(rows[0]['parameters']):,}, {int(rows[0]['active_parameters']):,}"
        measures = (spread(values(rows, m)) for m in ("text_loss", "fact_recall", "needle_recall"))
        minutes = sum(values(rows, "cpu_s")) / len(rows) / 60
        cells = (
            f"{name}: {arm.says}",
            len(rows),
            rows[0]["steps"],
            sizes,
            *measures,
            f"{minutes:.0f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def pictures() -> dict[str, str]:
    """SVG texts by file name, of all arms that have a run; none before the first one."""
    arms = compared(earlier("ablations"))
    if not arms:
        return {}
    drawn = {}
    for measure, label in MEASURES.items():
        name, title = measure.replace("_", "-"), f"Ablations: {label.partition(',')[0]}"
        lines = curves(arms, measure)
        drawn[f"ablations-{name}-curve.svg"] = line_plot(title, "training step", label, lines)
        if label.endswith("share"):  # a bar from zero says nothing of a loss
            bars = [Bar(name, values(rows, measure)) for name, rows in arms.items()]
            drawn[f"ablations-{name}.svg"] = bar_plot(title, label, bars)
    return drawn


def curves(arms: Mapping[str, list[Row]], measure: str) -> list[Curve]:
    """A line for each arm: the values of its seeds at every step that was measured.

    Runs that were stopped are among them, as far as they came.
    """
    points: dict[str, dict[int, list[float]]] = {name: {} for name in ARMS}
    for row in _measured(arms):
        points[row["arm"]].setdefault(int(row["step"]), []).append(float(row[measure]))
    return [Curve(name, sorted(found.items())) for name, found in points.items() if found]


def reached(name: str, arms: Mapping[str, list[Row]]) -> int:
    """The last step at which an unfinished run of the arm was measured."""
    return max((int(row["step"]) for row in _measured(arms) if row["arm"] == name), default=0)


def _measured(arms: Mapping[str, list[Row]]) -> list[Row]:
    """The points of all curves with the plan of the compared runs."""
    plans = {int(row["steps"]) for rows in arms.values() for row in rows}
    wanted = {(name, Plan(steps=n).design(arm)) for name, arm in ARMS.items() for n in plans}
    return [row for row in earlier("ablation_curves") if (row["arm"], row["design"]) in wanted]
