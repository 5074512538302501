"""What a server's trace says of an agent's turns, and whether each read only what is new."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

SPARE = 16
"""Tokens that a later turn may read beside what is new."""


@dataclass(frozen=True)
class Turn:
    """One request of the conversation, in tokens."""

    prompt: int
    cached: int
    generated: int
    finish: str

    @property
    def read(self) -> int:
        return self.prompt - self.cached


@dataclass(frozen=True)
class Traced:
    """All requests of one run of an agent."""

    turns: tuple[Turn, ...]
    """Those of the conversation, in order."""
    aside: int
    """How many others were answered: titles, memories."""
    refused: tuple[str, ...]
    """How the requests ended that were not answered."""


def read_trace(path: Path) -> Traced:
    """What `--trace` wrote to `path`."""
    return traced(json.loads(line) for line in path.read_text("utf-8").splitlines())


def traced(lines: Iterable[dict[str, Any]]) -> Traced:
    """The turns in the lines of a trace. The conversation is what offers the most tools."""
    bodies: dict[int, dict[str, Any]] = {}
    ends: dict[int, dict[str, Any]] = {}
    for line in lines:
        if "end" in line:
            ends[line["number"]] = line["end"]
        else:
            bodies[line["number"]] = line["body"]
    answered = [number for number in sorted(bodies) if _state(ends, number) == "done"]
    most = max((_tools(bodies[number]) for number in answered), default=0)
    turns = [number for number in answered if _tools(bodies[number]) == most]
    refused = [_state(ends, n) for n in sorted(bodies | ends) if _state(ends, n) != "done"]
    return Traced(
        tuple(_turn(ends[number]) for number in turns), len(answered) - len(turns), tuple(refused)
    )


def complaints(turns: Sequence[Turn], finishes: Sequence[str]) -> list[str]:
    """What is wrong with these turns, which have to end as `finishes` say."""
    found = [turn.finish for turn in turns]
    wrong = [] if found == list(finishes) else [f"turns ended {found}, not {list(finishes)}"]
    for number, (before, turn) in enumerate(pairwise(turns), start=2):
        new = turn.prompt - before.prompt - before.generated
        if turn.read > max(new, 0) + SPARE:
            wrong.append(f"turn {number} read {turn.read} tokens, of which {new} are new")
    return wrong


def _tools(body: dict[str, Any]) -> int:
    return len(body.get("tools") or ())


def _state(ends: dict[int, dict[str, Any]], number: int) -> str:
    return str(ends[number]["state"]) if number in ends else "open"


def _turn(end: dict[str, Any]) -> Turn:
    return Turn(end["prompt"], end["cached"], end["generated"], end["finish"])
