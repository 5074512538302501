"""The script of a model that says what it is told, for demos and tests of the chat program.

A script is a JSON file:

    {"replies": ["<think>A sum.</think>Four.",
                 {"text": "One word after the other. ", "repeat": 100, "delay_ms": 20},
                 {"text": "Let me look.",
                  "tool_calls": [{"name": "list_folder", "arguments": {"path": "."}}]},
                 ["One of two answers.", "The other one."]],
     "context": 100000, "prefill_ms": 50}

The answer to the n-th message is the n-th reply, tool results count as messages; after the last
reply the first comes again. A list of replies is one whose beginning the sampler chooses.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dsv4_mlx.chat.effort import EFFORT_TABLES, EffortTable
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.chat.tokens import END_THINK, THINK
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_json

_LEAST_CONTEXT = 16


@dataclass(frozen=True)
class ScriptedReply:
    """What the model says in one turn."""

    text: str = ""
    """The answer, after its reasoning in `<think>` and `</think>` if it has any."""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Calls at the end of the answer: a `name` and `arguments`, an object."""
    repeat: int = 1
    """How often the answer is said, or the reasoning where no `</think>` ends it."""
    repeat_reasoning: int = 1
    delay_ms: float = 0.0
    """What every token of it takes."""
    error: str = ""
    """Once, the engine fails with this sentence when all has been said."""
    crash: str = ""
    """The same with an error that the program does not expect, as MLX raises them."""

    @property
    def reasoning(self) -> str:
        before, _, _ = self._parts
        return before * (self.repeat_reasoning if self.ends_reasoning else self.repeat)

    @property
    def answer(self) -> str:
        return self._parts[2] * self.repeat

    @property
    def ends_reasoning(self) -> bool:
        """Whether an answer follows; else the model thinks until something stops it."""
        return bool(self._parts[1])

    @property
    def _parts(self) -> tuple[str, str, str]:
        """Reasoning, the marker that ends it, the answer."""
        if self.text.startswith(THINK) or END_THINK in self.text:
            return self.text.removeprefix(THINK).partition(END_THINK)
        return "", END_THINK, self.text


@dataclass(frozen=True)
class Script:
    """A whole script."""

    replies: tuple[tuple[ScriptedReply, ...], ...]
    """One entry for each turn: a reply, or several to choose from."""
    name: str = "scripted"
    """What the model is called where the program shows a model's name."""
    context: int = 1 << 20
    chunk: int = 512
    """Tokens of a prompt that are read at a time."""
    prefill_ms: float = 0.0
    """What reading one chunk takes."""
    load_ms: float = 0.0
    """What loading the model takes."""
    effort_table: EffortTable = "2026-07-31"
    snapshot_bytes: int = field(default=1 << 30)
    """The budget for the places that a session can return to; each of them counts 1,000 bytes."""

    @property
    def settings(self) -> ChatSettings:
        """What a checkpoint's files would say about chatting with it."""
        return ChatSettings(self.effort_table, self.context)


def read_script(path: str | Path) -> Script:
    """The script in the file `path`; UsageError with one sentence if it is none."""
    path = Path(path)
    try:
        content = parse_json(content_of(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a script of replies.") from error
    except DocumentError as error:
        raise UsageError(f"{path} {error}; correct it.") from error
    return _script(content, _Where(path))


@dataclass(frozen=True)
class _Where:
    """A place in the file, for the sentence about it."""

    path: Path
    place: str = "the script"

    def at(self, place: str) -> "_Where":
        return _Where(self.path, place)

    def require(self, holds: bool, expected: str, found: object) -> None:
        if not holds:
            shown = json.dumps(found, ensure_ascii=False)
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise UsageError(f"{self.path}: {self.place} must be {expected}, found {shown}.")


def _script(content: object, where: _Where) -> Script:
    where.require(isinstance(content, dict), "an object", content)
    assert isinstance(content, dict)
    _require_keys(content, Script, where)
    replies = content.get("replies")
    where.at("replies").require(
        isinstance(replies, list) and bool(replies), "a list of at least one reply", replies
    )
    assert isinstance(replies, list)
    turns = tuple(_turn(turn, where.at(f"replies[{i}]")) for i, turn in enumerate(replies))
    return Script(turns, **_values(content, Script, where, _SCRIPT_KEYS))


def _turn(value: object, where: _Where) -> tuple[ScriptedReply, ...]:
    if not isinstance(value, list):
        return (_reply(value, where),)
    where.require(bool(value), "a list of at least one reply", value)
    return tuple(_reply(one, where.at(f"{where.place}[{i}]")) for i, one in enumerate(value))


def _reply(value: object, where: _Where) -> ScriptedReply:
    if isinstance(value, str):
        value = {"text": value}
    where.require(isinstance(value, dict), "a text or an object", value)
    assert isinstance(value, dict)
    _require_keys(value, ScriptedReply, where)
    calls = value.get("tool_calls", [])
    where.at(f"{where.place}.tool_calls").require(_are_calls(calls), _CALLS, calls)
    return ScriptedReply(
        tool_calls=tuple(calls), **_values(value, ScriptedReply, where, _REPLY_KEYS)
    )


def _require_keys(found: Mapping[str, object], kind: type, where: _Where) -> None:
    allowed = [entry.name for entry in fields(kind)]
    unknown = next((key for key in found if key not in allowed), None)
    if unknown is not None:
        raise UsageError(
            f"{where.path}: {where.place} has the unknown key {unknown!r}; "
            f"the keys are {', '.join(allowed)}."
        )


_CALLS = 'a list of objects like {"name": "calculator", "arguments": {"expression": "2+2"}}'


def _are_calls(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(call, dict)
        and set(call) == {"name", "arguments"}
        and isinstance(call["name"], str)
        and isinstance(call["arguments"], dict)
        for call in value
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def _is_whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 40


_TEXT = ("a text", lambda value: isinstance(value, str))
_COUNT = ("a whole number from 1 on", _is_whole)
_TIME = ("a number of milliseconds", _is_number)
_REPLY_KEYS = {
    "text": _TEXT,
    "repeat": _COUNT,
    "repeat_reasoning": _COUNT,
    "delay_ms": _TIME,
    "error": _TEXT,
    "crash": _TEXT,
}
_SCRIPT_KEYS = {
    "name": _TEXT,
    "context": (
        f"a whole number from {_LEAST_CONTEXT} on",
        lambda value: _is_whole(value, _LEAST_CONTEXT),
    ),
    "chunk": _COUNT,
    "prefill_ms": _TIME,
    "load_ms": _TIME,
    "effort_table": (f"one of {', '.join(EFFORT_TABLES)}", lambda value: value in EFFORT_TABLES),
    "snapshot_bytes": ("a whole number from 0 on", lambda value: _is_whole(value, 0)),
}


def _values(
    found: Mapping[str, Any], kind: type, where: _Where, rules: Mapping[str, Any]
) -> dict[str, Any]:
    """The given values of the keys in `rules`, each checked."""
    for key, (expected, holds) in rules.items():
        if key in found:
            where.at(f"{where.place}.{key}" if kind is ScriptedReply else key).require(
                holds(found[key]), expected, found[key]
            )
    return {key: found[key] for key in rules if key in found}
