"""JSON as a grammar: any object, or what a schema allows.

A schema's structure is held to: types, `properties` in any order, `required`, `propertyNames`,
`items` and `prefixItems` with `minItems` and `maxItems`, `enum`, `const`, `anyOf`, `oneOf`,
`allOf`, `nullable` and references within the schema, also to themselves; what strings are, see
`string_grammar`, and bounds of numbers, see `number_grammar`. Where properties are named there are
no others. What narrows a value further is not held to; `unheld` of a schema names it.

That is what tools of agents and structured answers ask for, so no engine of grammars of others is
needed beside it; theirs would know nothing of DSML, of which JSON is but the arguments.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from dsv4_mlx.chat.schema import resolve
from dsv4_mlx.serving.character_grammar import QUOTED
from dsv4_mlx.serving.grammar import (
    Either,
    GrammarRule,
    Items,
    Members,
    OneSymbol,
    Repeated,
    either,
    text,
)
from dsv4_mlx.serving.number_grammar import INTEGER, NUMBER, number_items, unheld_of_numbers
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.string_grammar import string_items, unheld_of_strings

_UNHELD: Final = (
    "multipleOf",
    "uniqueItems",
    "contains",
    "patternProperties",
    "minProperties",
    "maxProperties",
    "not",
    "if",
    "dependentRequired",
)
_NAMED: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords under which schemas have names of their own."""
_DATA: Final = ("enum", "const", "default", "example", "examples", "required")
_MOST_SPACES: Final = 24


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

    def _referred(self, reference: str, target: object) -> Items:
        if reference not in self._known:
            self._known[reference] = self.value(target)
        return self._known[reference]

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
            yield (GrammarRule(name, lambda: self._referred(reference, target)),)
            return
        if "const" in content:
            yield (text(_written(content["const"])),)
            return
        if isinstance(content.get("enum"), list) and content["enum"]:
            yield from ((text(_written(one)),) for one in content["enum"])
            return
        for keyword in ("anyOf", "oneOf"):
            if isinstance(content.get(keyword), list) and content[keyword]:
                rest = {key: one for key, one in content.items() if key != keyword}
                for part in content[keyword]:
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
        members = {
            str(name): (text(_written(str(name))), *_COLON, *self.value(one))
            for name, one in properties.items()
        }
        inside = Members.all_of(members, needed_of(content), _COMMA)
        return (text("{"), *_SPACE, inside, *_SPACE, text("}"))


def _both(keyword: str, one: object, other: object) -> object:
    """What two parts of a schema say by one keyword; the second where they do not go together."""
    if keyword == "properties" and isinstance(one, Mapping) and isinstance(other, Mapping):
        return {**one, **other}
    if keyword == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    return other


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


def unheld(content: object) -> list[str]:
    """Keywords of a schema that its grammar does not hold to, each once."""
    found: dict[str, None] = {}
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            found |= dict.fromkeys(key for key in _UNHELD if key in part)
            found |= dict.fromkeys(unheld_of_strings(part, QUOTED))
            kinds = [kind for kind in types_of(part) if kind in ("integer", "number")]
            found |= dict.fromkeys(key for kind in kinds for key in unheld_of_numbers(part, kind))
            for key, one in part.items():
                if key in _NAMED and isinstance(one, Mapping):
                    waiting += one.values()
                elif key not in _DATA:
                    waiting.append(one)
        elif isinstance(part, list):
            waiting += part
    return list(found)


def unheld_of(request: GenerationRequest) -> list[str]:
    """Keywords of schemas that an answer to `request` should be held to and is not, each once: of
    its format, and of the parameters of tools that have to be called."""
    choice, schemas = request.tool_choice, [request.answer_format.schema]
    if choice.kind in ("required", "named"):
        functions = [tool.get("function", tool) for tool in request.settings.tools]
        schemas += [
            one["parameters"]
            for one in functions
            if one.get("parameters") and choice.allows(str(one.get("name")))
        ]
    return unheld(schemas)


def object_grammar() -> Items:
    """Any JSON object."""
    return (*_SPACE, ANY_OBJECT, *_SPACE)


def schema_grammar(schema: object) -> Items:
    """JSON that `schema` allows."""
    return (*_SPACE, *SchemaGrammar(schema).value(schema), *_SPACE)


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
