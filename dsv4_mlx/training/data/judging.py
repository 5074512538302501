"""What a task expects of a reply, and whether a parsed reply gives it.

A reply is what `ReplyParser.close()` returns: `content`, `reasoning_content` and `tool_calls`. The
reasoning is never judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.files.documents import DocumentError, parse_json

ParsedReply = Mapping[str, Any]
_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class ExactNumber:
    """The last whole number of the answer is `value`, and no tool is called."""

    value: int

    def accepts(self, reply: ParsedReply) -> bool:
        # "1,204" is one number to a reader.
        numbers = _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", content(reply)))
        return not calls(reply) and bool(numbers) and int(numbers[-1]) == self.value


@dataclass(frozen=True)
class KeyWords:
    """Every one of `words` is in the answer, in any case, and no tool is called."""

    words: tuple[str, ...]

    def accepts(self, reply: ParsedReply) -> bool:
        said = content(reply).lower()
        return not calls(reply) and all(word.lower() in said for word in self.words)


@dataclass(frozen=True)
class OneOf:
    """The first word of the answer that is one of `choices` is `word`: no list of guesses counts.

    `choices` are all values that facts of this kind have.
    """

    word: str
    choices: frozenset[str]

    def accepts(self, reply: ParsedReply) -> bool:
        said = re.findall(r"\w+", content(reply).lower())
        found = next((word for word in said if word in self.choices), None)
        return not calls(reply) and found == self.word


@dataclass(frozen=True)
class FittingCall:
    """One call of the tool `name` with exactly `arguments`; spaces around operators are free."""

    name: str
    arguments: Mapping[str, Any]

    def accepts(self, reply: ParsedReply) -> bool:
        made = calls(reply)
        if len(made) != 1 or DSML in content(reply):
            return False
        function = made[0]["function"]
        given = _arguments(function.get("arguments"))
        return bool(function.get("name") == self.name and _same(given, self.arguments))


@dataclass(frozen=True)
class NoCall:
    """An answer in words: no call, whole or broken."""

    def accepts(self, reply: ParsedReply) -> bool:
        said = content(reply)
        return not calls(reply) and bool(said.strip()) and DSML not in said


Answer = ExactNumber | KeyWords | OneOf | FittingCall | NoCall


def content(reply: ParsedReply) -> str:
    return str(reply.get("content") or "")


def calls(reply: ParsedReply) -> list[Mapping[str, Any]]:
    return list(reply.get("tool_calls") or ())


def _arguments(given: Any) -> Any:
    """Arguments as the official format has them, JSON text, or already as an object."""
    if not isinstance(given, str):
        return given
    try:
        return parse_json(given)
    except DocumentError:
        return None


def _same(given: Any, expected: Mapping[str, Any]) -> bool:
    if not isinstance(given, Mapping) or given.keys() != expected.keys():
        return False
    return all(_plain(given[name]) == _plain(value) for name, value in expected.items())


def _plain(value: Any) -> Any:
    """An argument as it is compared: `2*3` is `2 * 3`, while True is not 1."""
    if isinstance(value, str):
        return re.sub(r"\s*([-+*/%()])\s*", r"\1", value.strip())
    return (isinstance(value, bool), value)
