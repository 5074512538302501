"""What the finished runs say: tables and pictures, from results/ablations.csv and its curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
GAPS = {
    "near_recall": "pair in the window",
    "csa_recall": "in entries of 4 alone",
    "hca_recall": "in entries of 128 too",
    "needle_recall": "beyond the window",
    "needle_recall_without_csa": "the same without entries of 4",
    "needle_recall_without_hca": "without entries of 128",
}
"""Shares of needles by what of attention sees their pair, as the table calls them."""
REPORT = ("84.2", "97.0")
"""Needles recalled without and with Engram (arXiv 2601.07372), in %."""


@dataclass(frozen=True)
class Comparison:
    """Arms beside `base`, and the measures that a picture each is drawn of."""

    title: str
    arms: tuple[str, ...]
    measures: tuple[str, ...]


COMPARISONS = {
    "engram": Comparison("with and without Engram", ("engram",), tuple(MEASURES)),
    "residuals": Comparison(
        "mHC and plain residuals", ("plain-residuals",), ("text_loss", "needle_recall")
    ),
    "optimizer": Comparison(
        "Muon and AdamW", ("adamw", "adamw-low"), ("text_loss", "needle_recall")
    ),
    "selection": Comparison(
        "all entries and selected ones", ("selected",), ("text_loss", "needle_recall")
    ),
}
"""By the name that pictures begin with."""


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


def spread(found: list[float], digits: int = 3) -> str:
    """`1.230 (1.200 to 1.250)`, or the one value that there is."""
    mean = f"{sum(found) / len(found):.{digits}f}"
    if len(found) == 1:
        return mean
    return f"{mean} ({min(found):.{digits}f} to {max(found):.{digits}f})"


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


def differences() -> str:
    """What arms have more than `base` of the same seed, as a table of Markdown."""
    arms = compared(earlier("ablations"))
    base = {row["seed"]: row for row in arms.get("base", [])}
    lines = ["| arm minus base | seeds | loss | facts | needles |", "|---|--:|--:|--:|--:|"]
    for name, rows in arms.items():
        pairs = [(row, base[row["seed"]]) for row in rows if row["seed"] in base]
        if name != "base" and pairs:
            cells = (
                spread([float(row[measure]) - float(other[measure]) for row, other in pairs])
                for measure in MEASURES
            )
            lines.append("| " + " | ".join((name, str(len(pairs)), *cells)) + " |")
    return "\n".join(lines) if len(lines) > 2 else "No arm has a run beside one of `base` yet."


def gaps() -> str:
    """Recall of needles by what of attention sees their pair, as a table of Markdown."""
    arms = compared(earlier("ablations"))
    if not arms:
        return "No run has ended yet."
    lines = [f"| arm | {' | '.join(GAPS.values())} |", "|---|" + "--:|" * len(GAPS)]
    for name, rows in arms.items():
        cells = (spread(values(rows, measure)) for measure in GAPS)
        lines.append("| " + " | ".join((name, *cells)) + " |")
    return "\n".join(lines)


def beside_the_report() -> str:
    """Recall with and without Engram, its report's figure first, as a table of Markdown."""
    arms = compared(earlier("ablations"))
    lines = ["| recall, % | without Engram | with it |", "|---|--:|--:|"]
    lines.append(f"| its report, needles asked for several at a time | {' | '.join(REPORT)} |")
    for measure in ("needle_recall", "fact_recall"):
        found = [[100 * v for v in values(arms.get(n, []), measure)] for n in ("base", "engram")]
        cells = (spread(shares, 1) if shares else "not run" for shares in found)
        lines.append(f"| ours, {MEASURES[measure].partition(',')[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pictures() -> dict[str, str]:
    """SVG texts by file name; none before a run of `base` has ended.

    Of every comparison a curve for each of its measures, of all arms a bar for each share.
    """
    arms = compared(earlier("ablations"))
    if not arms:
        return {}
    drawn = {}
    for key, comparison in COMPARISONS.items():
        for measure in comparison.measures:
            lines = curves(arms, measure, ("base", *comparison.arms))
            if len(lines) > 1:
                title = f"{_short(measure)}, {comparison.title}"
                name = f"ablations-{key}-{measure.replace('_', '-')}.svg"
                drawn[name] = line_plot(title, "training step", MEASURES[measure], lines)
    seen = [Curve(GAPS[m], _points(arms, "base", m)) for m in list(GAPS)[:3]]
    drawn["ablations-gaps.svg"] = line_plot(
        "Needles recalled by base, by what sees their pair", "training step", "share", seen
    )
    for measure in ("fact_recall", "needle_recall"):
        bars = [Bar(name, values(rows, measure)) for name, rows in arms.items()]
        title = f"{_short(measure)}, by arm"
        drawn[f"ablations-{measure.replace('_', '-')}.svg"] = bar_plot(
            title, MEASURES[measure], bars
        )
    return drawn


def _short(measure: str) -> str:
    text = MEASURES[measure].partition(",")[0]
    return text[0].upper() + text[1:]


def curves(arms: Mapping[str, list[Row]], measure: str, names: Iterable[str]) -> list[Curve]:
    """A line for each of these arms: the values of its seeds at every step that was measured.

    Runs that were stopped are among them, as far as they came.
    """
    lines = [Curve(name, _points(arms, name, measure)) for name in names]
    return [line for line in lines if line.points]


def _points(
    arms: Mapping[str, list[Row]], name: str, measure: str
) -> list[tuple[int, list[float]]]:
    points: dict[int, list[float]] = {}
    for row in _measured(arms):
        if row["arm"] == name:
            points.setdefault(int(row["step"]), []).append(float(row[measure]))
    return sorted(points.items())


def reached(name: str, arms: Mapping[str, list[Row]]) -> int:
    """The last step at which an unfinished run of the arm was measured."""
    return max((int(row["step"]) for row in _measured(arms) if row["arm"] == name), default=0)


def _measured(arms: Mapping[str, list[Row]]) -> list[Row]:
    """The points of all curves with the plan of the compared runs."""
    plans = {int(row["steps"]) for rows in arms.values() for row in rows}
    wanted = {(name, Plan(steps=n).design(arm)) for name, arm in ARMS.items() for n in plans}
    return [row for row in earlier("ablation_curves") if (row["arm"], row["design"]) in wanted]
