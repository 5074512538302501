"""Whether a value that fits one alternative of a `oneOf` may fit another, told by their texts.

Our grammar takes `oneOf` for `anyOf`, which is the same where no value fits two. What is not seen
to keep two alternatives apart counts as nothing, so this errs towards "may".
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Final

from dsv4_mlx.chat.schema import Schema, resolve

_KINDS: Final = frozenset(("object", "array", "string", "integer", "fraction", "boolean", "null"))
_JOINS: Final = frozenset(("$ref", "allOf", "anyOf", "oneOf"))
_MOST_PAIRED: Final = 32
"""More alternatives are not compared with one another, unless one property tells them all apart."""
_DEEPEST: Final = 4


def may_overlap(content: Mapping[str, Any], root: object) -> bool:
    """Whether two alternatives of the `oneOf` of `content` may both take one value of those that
    our grammar writes for one of them; `root` is what references point in."""
    listed = content.get("oneOf")
    if not isinstance(listed, list) or len(listed) < 2:
        return False
    # An alternative is read with what stands beside it, as the grammar does; a reference is not.
    beside = {key: one for key, one in content.items() if key != "oneOf"}
    parts = [
        _Part.of(one if "$ref" in _mapping(one) else {**beside, **_mapping(one)}, root)
        for one in listed
    ]
    if _has_tag(parts):
        return False
    return len(parts) > _MOST_PAIRED or any(
        one.may_fit(other) or other.may_fit(one) for one, other in combinations(parts, 2)
    )


class _Part:
    """One alternative, or a property of it."""

    def __init__(self, content: Mapping[str, Any], root: object, depth: int) -> None:
        self._content, self._root, self._depth = content, root, depth
        self.values = _values(content)
        self.kinds = _kinds(content, self.values)
        self.names = {} if depth > _DEEPEST else _mapping(content.get("properties"))
        required = content.get("required")
        self.required = frozenset(map(str, required) if isinstance(required, list) else ())
        self._is_closed = (
            content.get("additionalProperties") is False and "patternProperties" not in content
        )

    @classmethod
    def of(cls, content: object, root: object, depth: int = 0) -> "_Part":
        """What `content` says, or where its reference points; nothing where it is put together of
        others, of which the grammar takes one part for the other."""
        found = _mapping(_target(content, root))
        return cls({} if _JOINS & found.keys() else found, root, depth)

    def property(self, name: str) -> "_Part":
        """What is said of a property that is named."""
        return _Part.of(self.names[name], self._root, self._depth + 1)

    def may_fit(self, other: "_Part") -> bool:
        """Whether a value that is written for this one may be one of `other`."""
        if self.values is not None:
            return any(Schema(other._content, self._root).allows(value) for value in self.values)
        shared = self.kinds & other.kinds
        if shared != {"object"}:
            return bool(shared)
        # An object with names has no others, and always those that are required.
        if self.names and not other.required <= self.names.keys():
            return False
        always = self.required & self.names.keys()
        if other._is_closed and not always <= other.names.keys():
            return False
        both = always & other.names.keys()
        return all(self.property(name).may_fit(other.property(name)) for name in both)


def _has_tag(parts: list[_Part]) -> bool:
    """Whether one property that all require has values of its own in each, of objects alone."""
    if any(one.kinds != {"object"} for one in parts):
        return False
    shared = frozenset.intersection(*(one.required for one in parts))
    return any(
        _are_apart([one.property(name).values if name in one.names else None for one in parts])
        for name in shared
    )


def _are_apart(found: list[list[Any] | None]) -> bool:
    seen = set[str]()
    for values in found:
        written = {value for value in values or () if isinstance(value, str)}
        if not values or len(written) < len(values) or written & seen:
            return False
        seen |= written
    return True


def _values(content: Mapping[str, Any]) -> list[Any] | None:
    """The values that a schema lists; None where it lists none."""
    listed = [content["const"]] if "const" in content else content.get("enum")
    if not isinstance(listed, list) or not listed:
        return None
    return [*listed, *([None] if content.get("nullable") is True else [])]


def _kinds(content: Mapping[str, Any], values: list[Any] | None) -> frozenset[str]:
    """The types of values that a schema takes, numbers parted into whole ones and others."""
    if values is not None:
        return frozenset(map(_kind, values))
    given = content.get("type")
    named = {one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)}
    if not named:
        return _KINDS
    wide = named | ({"integer", "fraction"} if "number" in named else set())
    return frozenset(wide | ({"null"} if content.get("nullable") is True else set()))


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "fraction"
        case str():
            return "string"
    return "array" if isinstance(value, list) else "object"


def _target(content: object, root: object) -> object:
    """Where a reference points, or what is no reference."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping) or (found := resolve(content, root)) is None:
            break
        content = found
    return content


def _mapping(content: object) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {}
