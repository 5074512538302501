"""JSON as a grammar: any object, or what a schema allows.

A schema's structure is held to: types, `properties` in any order, `required`, `propertyNames`,
`items` and `prefixItems` with `minItems` and `maxItems`, `enum`, `const`, `anyOf`, `oneOf`,
`allOf`, `nullable` and references within the schema, also to themselves; what strings are, see
`string_grammar`, and bounds of numbers, see `number_grammar`. Where properties are named there are
no others. What narrows a value further is not held to; `unheld` names it.

That is what tools of agents and structured answers ask for. Where a schema that says more describes
an answer alone, `engine_grammar` holds it by an engine of others, if it is installed; of DSML, of
which JSON is but the arguments, that knows nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from dsv4_mlx.chat.schema import resolve
from dsv4_mlx.errors import UsageError
from dsv4_mlx.serving.character_grammar import QUOTED
from dsv4_mlx.serving.grammar import (
    Either,
    GrammarRule,
    Items,
    OneSymbol,
    Repeated,
    either,
    members,
    text,
)
from dsv4_mlx.serving.number_grammar import INTEGER, NUMBER, number_items
from dsv4_mlx.serving.string_grammar import string_items
from dsv4_mlx.serving.words import Words

_MOST_SPACES: Final = 24
MOST_ALTERNATIVES: Final = 500
"""Every token is followed through all of them, on the model's thread."""


STRING: Final[Items] = (text('"'), Repeated(QUOTED.any), text('"'))
_SPACE = (
    Repeated(text("\n"), 0, 1),
    Repeated(OneSymbol(frozenset(b" \t")), 0, _MOST_SPACES),
)
_LITERALS: Final[Mapping[str, Items]] = {
    "string": STRING,
    "integer": INTEGER,
    "number": NUMBER,
    "boolean": (either(text("true"), text("false")),),
    "null": (text("null"),),
}


@cache
def _any_value() -> Items:
    return (either(*_LITERALS.values(), (ANY_OBJECT,), (ANY_ARRAY,)),)


ANY_VALUE: Final = GrammarRule("json value", _any_value)
_COMMA: Final[Items] = (*_SPACE, text(","), *_SPACE)
_COLON: Final[Items] = (*_SPACE, text(":"), *_SPACE)


def _listed(
    opening: str, item: Items, closing: str, least: int = 0, most: int | None = None
) -> Items:
    """Items between brackets, `least` to `most` of them."""
    left = None if most is None else most - 1
    more = Repeated(Either(((*_COMMA, *item),)), max(0, least - 1), left)
    some: Items = (*item, more, *_SPACE)
    ways = [some] if least else [some, ()]
    return (text(opening), *_SPACE, Either(tuple([()] if most == 0 else ways)), text(closing))


_OBJECT: Final = _listed("{", (*STRING, *_COLON, ANY_VALUE), "}")
_ARRAY: Final = _listed("[", (ANY_VALUE,), "]")
ANY_OBJECT: Final = GrammarRule("json object", lambda: _OBJECT)
ANY_ARRAY: Final = GrammarRule("json array", lambda: _ARRAY)


class SchemaGrammar:
    """The values that a schema allows; `root` is the whole that its references point in."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._known: dict[str, Items] = {}
        self._waiting: dict[str, object] = {}

    def _referred(self, reference: str, target: object) -> Items:
        if reference not in self._known:
            self._known[reference] = self.value(target)
        return self._known[reference]

    def finish(self) -> None:
        """Make now what references stand for, so that nobody who follows the grammar has to."""
        while self._waiting:
            self._referred(*self._waiting.popitem())

    def value(self, content: object) -> Items:
        """What `content`, a part of the schema, allows."""
        if not isinstance(content, Mapping) or not content:
            return (ANY_VALUE,)
        ways = list(self._ways(content))
        if content.get("nullable") is True:
            ways.append(_LITERALS["null"])
        return ways[0] if len(ways) == 1 else (Either(tuple(ways)),)

    def _ways(self, content: Mapping[str, Any]) -> Iterator[Items]:
        reference = content.get("$ref")
        if isinstance(reference, str):
            target = resolve(content, self._root)
            name = f"{id(self._root)} {reference}"
            if reference not in self._known:
                self._waiting[reference] = target
            yield (GrammarRule(name, lambda: self._referred(reference, target)),)
            return
        if "const" in content:
            yield (text(_written(content["const"])),)
            return
        if isinstance(content.get("enum"), list) and content["enum"]:
            yield (Words.one_of(map(_written, content["enum"])),)
            return
        if (found := alternatives(content)) is not None:
            keyword, parts = found
            rest = {key: one for key, one in content.items() if key != keyword}
            for part in parts:
                yield self.value({**rest, **part} if isinstance(part, Mapping) else rest)
            return
        if isinstance(content.get("allOf"), list) and content["allOf"]:
            yield self.value(self._merged(content))
            return
        for kind in types_of(content):
            yield self._of_type(kind, content)

    def _merged(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """A schema with the parts of its `allOf` in it, and theirs; a part that holds itself, or
        is no schema, adds nothing."""
        merged: dict[str, Any] = {}
        waiting: list[object] = [content]
        seen = set[object]()
        while waiting:
            part = waiting.pop()
            target = resolve(part, self._root) if isinstance(part, Mapping) else None
            if isinstance(part, Mapping) and target is not None:
                waiting += [] if part["$ref"] in seen else [target]
                seen.add(part["$ref"])
            elif isinstance(part, Mapping):
                waiting += reversed(part["allOf"]) if isinstance(part.get("allOf"), list) else ()
                said = ((key, one) for key, one in part.items() if key != "allOf")
                merged |= {key: _both(key, merged.get(key), one) for key, one in said}
        return merged

    def _of_type(self, kind: str, content: Mapping[str, Any]) -> Items:
        if kind == "object":
            return self._object(content)
        if kind == "array":
            return self._array(content)
        if kind == "string":
            return (text('"'), *string_items(content, QUOTED), text('"'))
        return number_items(kind, content) if kind in ("integer", "number") else _LITERALS[kind]

    def _array(self, content: Mapping[str, Any]) -> Items:
        least, most = content.get("minItems"), content.get("maxItems")
        least = least if isinstance(least, int) else 0
        most = most if isinstance(most, int) else None
        first, item = content.get("prefixItems"), content.get("items")
        if not isinstance(first, list) or not first:
            return _listed("[", self.value(item), "]", least, most)
        # After the items that are named there are no others, unless a schema says which.
        inside: Items = ()
        left = None if most is None else most - len(first)
        if isinstance(item, Mapping) and left != 0:
            more = Either(((*_COMMA, *self.value(item)),))
            inside = (Repeated(more, max(0, least - len(first)), left),)
        for place in reversed(range(len(first[:most]))):
            before = _COMMA if place else ()
            inside = (*before, *self.value(first[place]), *inside)
            inside = inside if place < least else (Either((inside, ())),)
        return (text("["), *_SPACE, *inside, *_SPACE, text("]"))

    def _object(self, content: Mapping[str, Any]) -> Items:
        properties = content.get("properties")
        if not isinstance(properties, Mapping) or not properties:
            others = content.get("additionalProperties")
            if others is False:
                return (text("{"), *_SPACE, text("}"))
            names = content.get("propertyNames")
            name = self.value({"type": "string", **names}) if isinstance(names, Mapping) else STRING
            return _listed("{", (*name, *_COLON, *self.value(others)), "}")
        choices = {
            str(name): (text(_written(str(name))), *_COLON, *self.value(one))
            for name, one in properties.items()
        }
        inside = members(choices, needed_of(content), _COMMA)
        return (text("{"), *_SPACE, inside, *_SPACE, text("}"))


def _both(keyword: str, one: object, other: object) -> object:
    """What two parts of a schema say by one keyword; the second where they do not go together."""
    if keyword == "properties" and isinstance(one, Mapping) and isinstance(other, Mapping):
        return {**one, **other}
    if keyword == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    return other


def alternatives(content: Mapping[str, Any]) -> tuple[str, list[object]] | None:
    """The schemas of `anyOf` or `oneOf`, of which a value fits one, and which it is. UsageError for
    more than can be followed at once."""
    for keyword in ("anyOf", "oneOf"):
        listed = content.get(keyword)
        if isinstance(listed, list) and listed:
            if len(listed) > MOST_ALTERNATIVES:
                raise UsageError(
                    f"{keyword} of a schema may list {MOST_ALTERNATIVES} alternatives, got "
                    f"{len(listed):,}; list fewer, or values in an enum."
                )
            return keyword, listed
    return None


def types_of(content: Mapping[str, Any]) -> Sequence[str]:
    """The types that a schema allows, all of them where it names none."""
    kinds = content.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    known = ("object", "array", *_LITERALS)
    if isinstance(kinds, list) and kinds and all(kind in known for kind in kinds):
        return kinds
    if "properties" in content:
        return ("object",)
    return ("array",) if "items" in content else known


def needed_of(content: Mapping[str, Any]) -> frozenset[str]:
    """The named properties that an object has to have."""
    required, properties = content.get("required"), content.get("properties")
    listed = required if isinstance(required, list) else []
    names = properties if isinstance(properties, Mapping) else {}
    return frozenset(name for name in listed if isinstance(name, str) and name in names)


def object_grammar() -> Items:
    """Any JSON object."""
    return (*_SPACE, ANY_OBJECT, *_SPACE)


def schema_grammar(schema: object) -> Items:
    """JSON that `schema` allows."""
    grammar = SchemaGrammar(schema)
    value = grammar.value(schema)
    grammar.finish()
    return (*_SPACE, *value, *_SPACE)


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
