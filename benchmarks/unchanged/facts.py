"""Facts of two checkouts side by side, a line each."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_MOST_LINES = 12


@dataclass(frozen=True)
class Line:
    """What is said about one fact."""

    text: str
    is_difference: bool = False


def compared(area: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Line]:
    """`same` or the difference of every fact that one of the two has."""
    for name in [*before, *(name for name in after if name not in before)]:
        absent = [where for where, facts in _both(before, after) if name not in facts]
        if absent:
            yield Line(f"DIFFERENT  {area}: {name}: absent {absent[0]}", True)
        elif before[name] == after[name]:
            yield Line(f"same       {area}: {name}")
        else:
            yield Line(f"DIFFERENT  {area}: {name}{_difference(before[name], after[name])}", True)


def measured(area: str, name: str, before: float, after: float, unit: str = "") -> Line:
    """A measure of both and their ratio; no difference, whatever it is."""
    ratio = f", x {after / before:.3f}" if before else ""
    return Line(f"measure    {area}: {name}: {before:,.6g} -> {after:,.6g}{unit}{ratio}")


def _both(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    return ("before", before), ("after", after)


def _difference(before: Any, after: Any) -> str:
    """A short value whole, of a longer text the lines that differ."""
    if "\n" not in f"{before}{after}":
        return f": {before!r} -> {after!r}"
    lines = difflib.unified_diff(
        str(before).splitlines(), str(after).splitlines(), "before", "after", lineterm="", n=0
    )
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    more = len(changed) - _MOST_LINES
    shown = changed[:_MOST_LINES] + ([f"... {more} more lines"] if more > 0 else [])
    return "".join(f"\n             {line}" for line in shown)
