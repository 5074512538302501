"""How many rows of one call a model may read with the bits of single ones, as a load found it."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

MOST_ROWS: Final = 8
"""Rows that a pass may have: a token and seven drafts."""


@dataclass(frozen=True)
class RowFinding:
    """Rows of one call up to which each has the bits that it has alone, and why not more."""

    exact_rows: int = 1
    reason: str = ""
    """Why it is 1, as the beginning of a sentence; "" where it is more."""
    slower: float | None = None
    """How much longer our products take at one row than MLX's, 0.03 being 3 %; None unmeasured."""
    weight_bytes: int = 0
    """Of weights, that tests and times of products read, each counted once."""
    round_rows: int = 1
    """Timelines of one call, a token of each, up to which each has the bits that it has alone."""

    def as_record(self) -> dict[str, Any]:
        """As JSON data, for later loads."""
        return asdict(self)

    @classmethod
    def of_record(cls, record: Any) -> "RowFinding | None":
        """What `as_record` gave; None for anything else, since all can be found again."""
        try:
            rows, reason, slower = record["exact_rows"], record["reason"], record["slower"]
            found = cls(int(rows), str(reason), slower if slower is None else float(slower))
            found = replace(found, round_rows=int(record["round_rows"]))
            found = replace(found, weight_bytes=int(record["weight_bytes"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        is_sound = 1 <= found.round_rows <= found.exact_rows <= MOST_ROWS
        return found if is_sound and (found.exact_rows > 1) != bool(reason) else None
