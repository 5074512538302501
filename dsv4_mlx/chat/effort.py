"""How hard the model is asked to think: the two effort tables and which one a checkpoint has.

The first release knows "high" (no prefix) and "max"; the checkpoints of 31 July 2026 moved the
scale to "low" (no prefix), "high" (the text that "max" had before) and a new "max".
"""

from pathlib import Path
from typing import Final, Literal, get_args

from dsv4_mlx.chat.messages import ChatError

EffortTable = Literal["2026-04", "2026-07-31"]
ThinkingMode = Literal["chat", "thinking"]

EFFORT_TABLES: Final[tuple[EffortTable, ...]] = get_args(EffortTable)

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


def detect_effort_table(folder: str | Path) -> EffortTable:
    """The table of a checkpoint: its own encoder says it, else its name, else the first release.

    The draft tensors say nothing: the June release has them and the first table.
    """
    folder = Path(folder)
    encoder = folder / "encoding" / "encoding_dsv4.py"
    if any(_MARK in _text(source) for source in (encoder, folder / "chat_template.jinja")):
        return "2026-07-31"
    has_other_encoder = encoder.is_file()
    is_named = any("0731" in name for name in _names(folder))
    return "2026-07-31" if is_named and not has_other_encoder else "2026-04"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _names(folder: Path) -> list[str]:
    """The folder's name and, in a download cache, the repository's ("models--owner--name")."""
    names: list[str] = []
    for path in (folder.absolute(), folder.resolve()):
        names += [path.name, *(part for part in path.parts if part.startswith("models--"))]
    return names
