"""How hard the model is asked to think: the two effort tables and which one a checkpoint has.

The first release knows "high" (no prefix) and "max"; the checkpoints of 31 July 2026 moved the
scale to "low" (no prefix), "high" (the text that "max" had before) and a new "max".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.release.identity import conversion_facts, release_of

EffortTable = Literal["2026-04", "2026-07-31"]
ThinkingMode = Literal["chat", "thinking"]

EFFORT_TABLES: Final[tuple[EffortTable, ...]] = get_args(EffortTable)
_FIRST, _LATER = EFFORT_TABLES

KnownBy = Literal["encoder", "template", "name", "assumed"]
_REASONS: Final[dict[KnownBy, str]] = {
    "encoder": "as the encoder of the release says",
    "template": "as the chat template says",
    "name": "as the release's name says",
    "assumed": "assumed, for no encoder and no name of a release says which; `dsv4-chat "
    "--effort-table` takes the other",
}

_ABSOLUTE = (
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "
    "edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n"
)
_BEYOND = (
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively decompose the problem into its most fundamental components, trace every causal "
    "chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple "
    "angles and are certain that no assumption remains unchecked and no error remains "
    "undiscovered.\n\n"
)
_MARK: Final = "Beyond maximum"

# The first level of a table is its default, the one without a prefix.
_PREFIXES: Final[dict[EffortTable, dict[str, str]]] = {
    "2026-04": {"high": "", "max": _ABSOLUTE},
    "2026-07-31": {"low": "", "high": _ABSOLUTE, "max": _BEYOND},
}


def effort_levels(table: EffortTable) -> tuple[str, ...]:
    """The levels of thinking that a table knows, the default one first."""
    return tuple(_prefixes(table))


def effort_prefix(effort: str | None, table: EffortTable) -> str:
    """The text that stands before the first message; None is the default level. ChatError."""
    prefixes = _prefixes(table)
    if effort is None:
        return ""
    if effort not in prefixes:
        raise ChatError(
            f"The effort table {table} has the levels {_listed(table)}, got {effort!r}; "
            "choose one of them."
        )
    return prefixes[effort]


def _prefixes(table: EffortTable) -> dict[str, str]:
    if table not in _PREFIXES:
        known = " and ".join(EFFORT_TABLES)
        raise ChatError(f"The effort tables are {known}, got {table!r}; choose one of them.")
    return _PREFIXES[table]


def _listed(table: EffortTable) -> str:
    return ", ".join(effort_levels(table))


@dataclass(frozen=True)
class FoundTable:
    """The table of a checkpoint, and what says so."""

    table: EffortTable
    known_by: KnownBy

    @property
    def sentence(self) -> str:
        """The table and what says so, for people."""
        return f"effort table {self.table}, {_REASONS[self.known_by]}"


def detect_effort_table(folder: str | Path) -> EffortTable:
    """The table of a checkpoint; `find_effort_table` tells how it is known."""
    return find_effort_table(folder).table


def find_effort_table(folder: str | Path) -> FoundTable:
    """The table of a checkpoint: its own encoder or template says it, else the conversion that
    wrote it, else a release's own name; else the first release's is assumed.

    The draft tensors say nothing: the June release has them and the first table.
    """
    folder = Path(folder)
    encoder = folder / "encoding" / "encoding_dsv4.py"
    if encoder.is_file():
        return FoundTable(_LATER if _MARK in _text(encoder) else _FIRST, "encoder")
    if _MARK in _text(folder / "chat_template.jinja"):
        return FoundTable(_LATER, "template")
    recorded = table_in(conversion_facts(folder))
    if recorded is not None and recorded.known_by != "assumed":
        return recorded
    if release := release_of(folder):
        return FoundTable(_LATER if release.endswith("-0731") else _FIRST, "name")
    return recorded or FoundTable(_FIRST, "assumed")


def table_in(facts: Mapping[str, Any]) -> FoundTable | None:
    """What a conversion read its source as, by its facts; None where they do not say."""
    found = facts.get("effort_table")
    if not isinstance(found, dict):
        return None
    table, known_by = found.get("table"), found.get("known_by")
    if table not in EFFORT_TABLES or known_by not in _REASONS:
        return None
    return FoundTable(table, known_by)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
