"""What a file would become, as a unified diff that leaves nothing out."""

import difflib
from collections.abc import Sequence

_MOST_PAIRS = 4_000_000
"""Pairs of lines that are compared; beyond it a changed stretch is shown as replaced whole."""
_CONTEXT = 3


def unified(old: bytes | None, new: str, name: str) -> list[str]:
    """Lines of the difference; a new file is all additions."""
    if old is None:
        return [f"+{line}" for line in _lines(new)]
    try:
        before = _lines(old.decode("utf-8"))
    except UnicodeDecodeError:
        return [f"[now {len(old):,} bytes that are no text]", *(f"+{line}" for line in _lines(new))]
    after = _lines(new)
    start, end = _common(before, after)
    if (len(before) - start - end) * (len(after) - start - end) > _MOST_PAIRS:
        return _replaced(before, after, start, end)
    return list(difflib.unified_diff(before, after, name, name, lineterm="", n=_CONTEXT))


def _lines(text: str) -> list[str]:
    """The lines of a text; a last one without its end is marked as `diff` does."""
    if not text:
        return []
    *lines, last = text.split("\n")
    return lines if not last else [*lines, f"{last}\\ no newline at the end"]


def _common(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """Lines that both begin with, and lines that both end with."""
    shorter = min(len(before), len(after))
    start = 0
    while start < shorter and before[start] == after[start]:
        start += 1
    end = 0
    while end < shorter - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return start, end


def _replaced(before: Sequence[str], after: Sequence[str], start: int, end: int) -> list[str]:
    return [
        f"@@ -{start + 1},{len(before) - start - end} +{start + 1},{len(after) - start - end} @@",
        *(f"-{line}" for line in before[start : len(before) - end]),
        *(f"+{line}" for line in after[start : len(after) - end]),
    ]
