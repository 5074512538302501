"""How hard the model is asked to think: the two effort tables and which one a checkpoint has.

The first release knows "high" (no prefix) and "max"; the checkpoints of 31 July 2026 moved the
scale to "low" (no prefix), "high" (the text that "max" had before) and a new "max".
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.errors import UsageError

EffortTable = Literal["2026-04", "2026-07-31"]
ThinkingMode = Literal["chat", "thinking"]

EFFORT_TABLES: Final[tuple[EffortTable, ...]] = get_args(EffortTable)
MAX_EFFORT_CONTEXT: Final = 384 * 1024
"""Tokens of context the model card asks for at the level "max"."""

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
class Thinking:
    """What a level on the command line means for the encoder."""

    mode: ThinkingMode
    effort: str | None = None


def think_levels(table: EffortTable) -> tuple[str, ...]:
    """What `--think` accepts with this table."""
    return ("none", *effort_levels(table))


def resolve_think(level: str | None, table: EffortTable) -> Thinking:
    """`none`, `low`, `high` or `max` as encoder settings; None is the table's default level.

    UsageError with the list if the table lacks the level.
    """
    if level is None:
        level = effort_levels(table)[0]
    if level not in think_levels(table):
        raise UsageError(
            f"This checkpoint's thinking levels are {', '.join(think_levels(table))}, "
            f"got {level!r}; choose one of them."
        )
    return Thinking("chat") if level == "none" else Thinking("thinking", level)


def detect_effort_table(folder: str | Path) -> EffortTable:
    """The table of a checkpoint: its own encoder says it, else its name, else the first release.

    The draft tensors say nothing: the June release has them and the first table.
    """
    folder = Path(folder)
    encoder = folder / "encoding" / "encoding_dsv4.py"
    if encoder.is_file():
        text = encoder.read_text(encoding="utf-8", errors="replace")
        return "2026-07-31" if "Beyond maximum" in text else "2026-04"
    return "2026-07-31" if any("0731" in name for name in _names(folder)) else "2026-04"


def _names(folder: Path) -> list[str]:
    """The folder's name and, in a download cache, the repository's ("models--owner--name")."""
    names = [folder.name]
    for path in (folder.absolute(), folder.resolve()):
        names += [path.name, *(part for part in path.parts if part.startswith("models--"))]
    return names
