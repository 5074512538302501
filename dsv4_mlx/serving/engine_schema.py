"""A JSON schema as the engine of grammars is given it.

llguidance refuses a schema with keywords that it knows and does not implement, passes over those
that it does not know, counts in floats, reads patterns as Rust does, and follows references by
recursion. So what is known to be refused is left out and named, and a schema that it would take for
another one, or that would cost it its stack or minutes, is not given to it at all. What has named
properties is an object and has no others, as in `json_grammar`, where nothing else is said of the
value. See its docs/json_schema.md.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from dsv4_mlx.serving.json_grammar import types_of
from dsv4_mlx.serving.schema_parts import DATA, NAMED, parts_of

_LEFT_OUT: Final = frozenset(
    {
        "uniqueItems",
        "contains",
        "not",
        "if",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "propertyNames",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SILENT: Final = frozenset({"then", "else", "minContains", "maxContains", "$schema", "x-guidance"})
"""Left out, and nothing to name: four belong to others that are named, of an older draft the engine
would know fewer keywords, and the last is its own."""
_FORMATS: Final = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uuid",
        "uri",
    }
)
_SAYS: Final = frozenset(
    {
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "items",
        "prefixItems",
        "multipleOf",
    }
)
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_OPTIONS: Final[Mapping[str, Any]] = {
    # Spaces as in our own grammar. Without \u two names are never the same one: the engine would
    # let "\u0061" stand beside "a".
    "whitespace_pattern": r"\n[ \t]{0,24}|[ \t]{1,24}",
    "json_allowed_escapes": 'nrbtf\\"',
    "coerce_one_of": True,
}
_UNWRITABLE: Final = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""What cannot be written without \\u."""
_FOREIGN: Final = re.compile(r"\(\?(?!:|<[A-Za-z_])|\[\^?\]|\[[^\]]*(?:\[|&&|--|~~)|\{,")
"""What Rust refuses or reads otherwise than JavaScript, where escapes are taken out."""
_ESCAPES: Final = re.compile(r"\\(?:[dDwWsSnrtfv]|u(?!\{)|x(?!\{)|[pP](?=\{)|[^A-Za-z0-9<>])", re.S)

_MOST_TEXT: Final = 128 * 1024
_MOST_LEVELS: Final = 400
"""Depth times references. The engine takes up to 7 KB of stack for each, of 8 MB."""
_MOST_PATTERNS: Final = 32
"""Of names, of which it compares each with each."""
_MOST_MULTIPLE: Final = 10_000
"""A remainder is a state of its own."""
_MOST_DIGITS: Final = 9
_MOST_COMMON: Final = (1 << 16) - 1
"""It multiplies two of them in 32 bits."""


@dataclass(frozen=True)
class EngineSchema:
    """The text of a schema for the engine, and which keywords of it are not in there."""

    text: str
    unheld: tuple[str, ...]


def engine_schema(schema: Mapping[str, Any]) -> EngineSchema | None:
    """What the engine is given of `schema`; None where that would be another one, or too large."""
    found = list(parts_of(schema))
    parts = [part for part, _ in found]
    references = {one for part in parts if isinstance(one := part.get("$ref"), str)}
    patterns = [key for part in parts for key in _named(part, "patternProperties")]
    if max(depth for _, depth in found) * (len(references) + 1) > _MOST_LEVELS:
        return None
    if len(patterns) > _MOST_PATTERNS or not all(map(_is_portable, patterns)):
        return None
    if not all(_is_exact(part) for part in parts):
        return None
    writer = _Writer(parts)
    written = writer.part(schema)
    try:
        text = json.dumps({**written, "x-guidance": _OPTIONS}, allow_nan=False)
    except ValueError:  # a number that is none
        return None
    return EngineSchema(text, tuple(writer.unheld)) if len(text) <= _MOST_TEXT else None


class _Writer:
    """Writes a schema and notes what it leaves out."""

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self.unheld: dict[str, None] = {}
        joins = any(map(_joins, parts))
        multiples = {_multiple(part["multipleOf"]) for part in parts if "multipleOf" in part}
        self._has_one_of = any("oneOf" in part for part in parts)
        self._closes = not joins and not self._has_one_of
        self._holds_multiples = not joins or _have_common(multiples)

    def part(self, content: Any) -> Any:
        """A part of the schema, or what stands in its place."""
        if isinstance(content, list):
            return [self.part(one) for one in content]
        if not isinstance(content, Mapping):
            return content
        written: dict[str, Any] = {}
        for key, one in content.items():
            if key in _SILENT or (key == "uniqueItems" and one is False):
                continue
            if not self._is_held(key, one):
                self.unheld[key] = None
            elif key in NAMED and isinstance(one, Mapping):
                written[key] = {name: self.part(named) for name, named in one.items()}
            else:
                written[key] = one if key in DATA else self.part(one)
        if "type" not in written and ("properties" in written or "items" in written):
            written["type"] = types_of(content)[0]
            if self._has_one_of:  # alternatives that are apart by this are not so by the schema
                self.unheld["oneOf"] = None
        if self._closes and _is_closed(content):
            written["additionalProperties"] = False
        if not _are_counted(written):
            self.unheld["minProperties"] = None
        return written

    def _is_held(self, key: str, value: object) -> bool:
        match key:
            case "format":
                return isinstance(value, str) and value in _FORMATS
            case "pattern":
                return isinstance(value, str) and _is_portable(value)
            case "multipleOf":
                return self._holds_multiples and _multiple(value) is not None
        return key not in _LEFT_OUT


def _named(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    listed = part.get(key)
    return listed if isinstance(listed, Mapping) else {}


def _required(part: Mapping[str, Any]) -> frozenset[str]:
    listed = part.get("required")
    return frozenset(map(str, listed) if isinstance(listed, list) else ())


def _joins(part: Mapping[str, Any]) -> bool:
    """Whether a value is described here in more than one place."""
    found = sum(key in part for key in ("anyOf", "oneOf", "$ref"))
    return "allOf" in part or found > 1 or (found == 1 and not _SAYS.isdisjoint(part))


def _is_closed(part: Mapping[str, Any]) -> bool:
    """Whether an object has the properties that are named and no others, as in `json_grammar`."""
    names, least = _named(part, "properties"), part.get("minProperties")
    return (
        bool(names)
        and "additionalProperties" not in part
        and "patternProperties" not in part
        and _required(part) <= names.keys()
        and not (isinstance(least, int) and least > len(names))
    )


def _are_counted(part: Mapping[str, Any]) -> bool:
    """Whether an object has as many properties as its text: others than the named ones may come
    twice, which is one."""
    least = part.get("minProperties")
    is_closed = part.get("additionalProperties") is False and "patternProperties" not in part
    return is_closed or not isinstance(least, int) or least <= len(_required(part)) + 1


def _is_exact(part: Mapping[str, Any]) -> bool:
    """Whether the engine takes the data of a part for what they are, and knows its keywords."""
    data = [part.get(key) for key in (*_BOUNDS, "const", "enum")]
    return part.get("nullable") is not True and _is_writable(data)


def _is_writable(value: object) -> bool:
    match value:
        case str():
            return not _UNWRITABLE.search(value)
        case int():
            return abs(value) <= 1 << 53
        case float():
            return math.isfinite(value)
        case list():
            return all(map(_is_writable, value))
        case Mapping():
            return all(map(_is_writable, [*value, *value.values()]))
    return True


def _is_portable(pattern: str) -> bool:
    """Whether Rust reads a pattern as JavaScript does, as far as both know what is in it."""
    bare = _ESCAPES.sub("_", pattern)
    return "\\" not in bare and not _FOREIGN.search(bare)


def _multiple(value: object) -> Fraction | None:
    """The number that the engine takes a `multipleOf` for, if it is that and not too large."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        return None
    scaled, digits = float(value), 0
    while scaled % 1 and digits <= _MOST_DIGITS:
        scaled, digits = scaled * 10, digits + 1
    taken = Fraction(int(scaled), 10**digits)
    is_right = taken == Fraction(str(value)) and digits <= _MOST_DIGITS
    return taken if is_right and scaled <= _MOST_MULTIPLE else None


def _have_common(multiples: "set[Fraction | None]") -> bool:
    """Whether the engine can count the common multiple of some of them."""
    known = [one for one in multiples if one is not None]
    scale = 10**_MOST_DIGITS
    while scale > 1 and all((one * scale / 10).denominator == 1 for one in known):
        scale //= 10
    return math.lcm(*(int(one * scale) for one in known)) <= _MOST_COMMON
