"""What the JSON schemas of tools say about the values of their arguments.

Only as much as it takes to tell the readings of one text apart: types, `enum`, `const`, `nullable`,
`anyOf`, `oneOf`, `allOf` and references within the schema. Whether a call may run is for its tool.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_DEEPEST = 32
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int,),
    "null": (type(None),),
}
"""JSON schema's names of types, and what they are in Python."""


class ToolSchemas:
    """The parameters of tools by name; `tools` are definitions as OpenAI's interface takes them."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._tools = tools

    @cached_property
    def _by_name(self) -> dict[object, object]:
        functions = [tool.get("function", tool) for tool in self._tools]
        return {
            function["name"]: function.get("parameters")
            for function in functions
            if isinstance(function, Mapping) and isinstance(function.get("name"), str)
        }

    def of(self, name: str) -> "Schema | None":
        """The schema of a tool's arguments; None for an unknown tool or one without."""
        content = self._by_name.get(name)
        return Schema(content, content) if isinstance(content, Mapping) and content else None


@dataclass(frozen=True)
class Schema:
    """A schema, and the whole it is a part of, in which its references point."""

    content: object
    root: object = field(repr=False)

    def allows(self, value: object) -> bool:
        """Whether `value`, JSON data, is of a kind that this schema takes."""
        return _Check(value, self.root).allows(self.content)

    @property
    def allows_any_string(self) -> bool:
        """Whether a string is of that kind whatever it says."""
        return self.allows(_UNLISTED)

    def property(self, name: str) -> "Schema | None":
        """The schema of the value of `name` in an object; None when nothing is said about it."""
        found: list[object] = []
        for content in _joined(self.content, self.root):
            properties, others = content.get("properties"), content.get("additionalProperties")
            if isinstance(properties, Mapping) and name in properties:
                found.append(properties[name])
            elif isinstance(others, Mapping):
                found.append(others)
        if not found:
            return None
        return Schema(found[0] if len(found) == 1 else {"anyOf": found}, self.root)

    def names(self, name: str) -> bool:
        """Whether `name` is among the properties, by itself and not as one of any others."""
        listed = [content.get("properties") for content in _joined(self.content, self.root)]
        return any(isinstance(entry, Mapping) and name in entry for entry in listed)


class _Unlisted(str):
    """A string that is none of those that a schema lists."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


_UNLISTED = _Unlisted()


class _Check:
    """One value against a schema; every part is looked at once, so that no knot of references
    takes long."""

    def __init__(self, value: object, root: object) -> None:
        self._value = value
        self._root = root
        self._known: dict[int, bool] = {}

    def allows(self, content: object, depth: int = 0) -> bool:
        if isinstance(content, bool):
            return content
        if depth > _DEEPEST or not isinstance(content, Mapping):
            return True
        if id(content) not in self._known:
            self._known[id(content)] = True  # a part within itself says nothing new
            self._known[id(content)] = self._decide(content, depth + 1)
        return self._known[id(content)]

    def _decide(self, content: Mapping[str, Any], depth: int) -> bool:
        if self._value is None and content.get("nullable") is True:
            return True
        if not _keywords_allow(content, self._value):
            return False
        for keyword, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
            parts = content.get(keyword)
            listed = parts if isinstance(parts, list) and parts else [True]
            if not enough([self.allows(part, depth) for part in listed]):
                return False
        return self.allows(resolve(content, self._root), depth)


def _joined(content: object, root: object) -> Iterator[Mapping[str, Any]]:
    """A schema of objects, and the schemas it refers to and is put together of."""
    waiting, seen = [content], set[int]()
    while waiting:
        part = waiting.pop(0)
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        for keyword in ("anyOf", "oneOf", "allOf"):
            listed = part.get(keyword)
            waiting += listed if isinstance(listed, list) else []
        waiting.append(resolve(part, root))


def resolve(content: Mapping[str, Any], root: object) -> object:
    """The schema that a `$ref` within the whole points at; None for any other, or without one."""
    reference = content.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and step.isdecimal() and int(step[:9]) < len(found):
            found = found[int(step)]
        elif isinstance(found, Mapping) and step in found:
            found = found[step]
        else:
            return None
    return found


def _keywords_allow(content: Mapping[str, Any], value: object) -> bool:
    kinds = content.get("type", _implied_type(content))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    is_known = isinstance(kinds, list) and all(isinstance(k, str) and k in TYPES for k in kinds)
    if is_known and not any(is_of_type(value, kind) for kind in kinds):
        return False
    choices = content.get("enum")
    if isinstance(choices, list) and not any(_equal(value, choice) for choice in choices):
        return False
    return "const" not in content or _equal(value, content["const"])


def _implied_type(content: Mapping[str, Any]) -> str | None:
    """Schemas that list properties or items mean objects or arrays."""
    if "properties" in content:
        return "object"
    return "array" if "items" in content else None


def is_of_type(value: object, kind: str) -> bool:
    """Whether a value of JSON is of a type of TYPES; true is no number, 2.0 is an integer."""
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, TYPES[kind])


def _equal(one: object, other: object) -> bool:
    """Whether two values are equal as JSON, where true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list | dict) or isinstance(other, list | dict):
        return type(one) is type(other) and _canonical(one) == _canonical(other)
    return one == other


def _canonical(value: object) -> str | None:
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return None
