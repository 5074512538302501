"""Tool calls as a grammar: the block that the release's encoder writes, arguments by schema."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from dsv4_mlx.chat.messages import to_json
from dsv4_mlx.chat.schema import resolve
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.serving.character_grammar import BARE
from dsv4_mlx.serving.grammar import (
    FIRST_CONTROL,
    Either,
    GrammarItem,
    GrammarRule,
    Items,
    OneSymbol,
    Repeated,
    Symbols,
    members,
    optional,
    text,
)
from dsv4_mlx.serving.json_grammar import SchemaGrammar, alternatives, needed_of, types_of
from dsv4_mlx.serving.string_grammar import string_items
from dsv4_mlx.serving.words import Words


class CallGrammar:
    """Calls of `tools`, definitions as OpenAI's interface takes them.

    `control_ids` are the tokenizer's; a control token that it lacks is written as text.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], control_ids: Mapping[str, int]) -> None:
        functions = [tool.get("function", tool) for tool in tools]
        self._functions = {function["name"]: function for function in functions}
        found = control_ids.get(DSML)
        self._dsml = text(DSML) if found is None else Symbols((FIRST_CONTROL + found,))
        controls = (FIRST_CONTROL + token for token in control_ids.values())
        self._anything = frozenset((*range(FIRST_CONTROL), *controls))

    def calls(self, names: Sequence[str], *, several: bool) -> Items:
        """A block with a call of one of the tools `names`, or with `several`."""
        call = Either(tuple(self._call(name) for name in names))
        return (
            text("\n\n<"),
            self._dsml,
            text("tool_calls>\n"),
            Repeated(call, 1, None if several else 1),
            *self._closing("tool_calls"),
        )

    def text_and(self, calls: Items) -> Items:
        """Any text, which may end in `calls` and has no others in it."""
        text_alone = OneSymbol(self._anything - {*self._dsml.symbols[:1]})
        return (Repeated(text_alone), optional(*calls))

    def at_most_one(self) -> Items:
        """Anything at all, but after the end of a call only that of its block."""
        end = tuple(symbol for item in self._closing("invoke") for symbol in item.symbols)
        ways: list[Items] = []
        rules: list[Items] = [
            (GrammarRule(f"{id(ways)} behind {at}", partial(ways.__getitem__, at)),)
            for at in range(len(end))
        ]
        rules.append((text("\n"), *self._closing("tool_calls")))
        for at, symbol in enumerate(end):
            # The end begins with "<", which comes nowhere else in it.
            begins_anew = frozenset(end[:1]) - {symbol}
            other = self._anything - {symbol, end[0]}
            goes_on = (OneSymbol(frozenset({symbol})), *rules[at + 1])
            again = (OneSymbol(begins_anew), *rules[1])
            ways.append((Either(((), goes_on, again, (OneSymbol(other), *rules[0]))),))
        return rules[0]

    def _call(self, name: str) -> Items:
        schema = self._functions[name].get("parameters")
        return (
            text("<"),
            self._dsml,
            text(f'invoke name="{name}">\n'),
            self._parameters(schema if isinstance(schema, Mapping) else {}),
            text("\n"),
            *self._closing("invoke"),
            text("\n"),
        )

    def _parameters(self, schema: Mapping[str, Any]) -> GrammarItem:
        root = schema
        if isinstance(schema.get("$ref"), str):
            target = resolve(schema, root)
            schema = target if isinstance(target, Mapping) else {}
        properties = schema.get("properties")
        named = properties if isinstance(properties, Mapping) else {}
        grammar = SchemaGrammar(root)
        parameters = {
            str(name): self._parameter(str(name), content, root, grammar)
            for name, content in named.items()
        }
        grammar.finish()
        return members(parameters, needed_of(schema), (text("\n"),))

    def _parameter(self, name: str, content: object, root: object, grammar: SchemaGrammar) -> Items:
        opening: Items = (text("<"), self._dsml, text(f'parameter name="{name}" string="'))
        parts = _parts(content, root)
        ways = [
            *((text('true">'), *way) for part in parts for way in _strings(part)),
            *((text('false">'), *way) for part in parts for way in _others(part, grammar)),
        ]
        return (*opening, Either(tuple(ways)), *self._closing("parameter"))

    def _closing(self, name: str) -> tuple[Symbols, ...]:
        return (text("</"), self._dsml, text(f"{name}>"))


def _strings(content: object) -> list[Items]:
    """Values that are strings, bare as the release writes them; none where it may be none."""
    if not isinstance(content, Mapping) or not content:
        return [string_items({}, BARE)]
    if (choices := _choices(content)) is not None:
        return _words([one for one in choices if isinstance(one, str)])
    return [string_items(content, BARE)] if "string" in types_of(content) else []


def _others(content: object, grammar: SchemaGrammar) -> list[Items]:
    """Values that are no strings, as JSON."""
    if not isinstance(content, Mapping) or not content:
        return [grammar.value({"type": [kind for kind in types_of({}) if kind != "string"]})]
    if (choices := _choices(content)) is not None:
        return _words([to_json(one) for one in choices if not isinstance(one, str)])
    kinds = [kind for kind in types_of(content) if kind != "string"]
    if content.get("nullable") is True:
        kinds.append("null")
    rest = {key: one for key, one in content.items() if key != "nullable"}
    return [grammar.value({**rest, "type": [kind]}) for kind in dict.fromkeys(kinds)]


def _words(texts: Sequence[str]) -> list[Items]:
    """One of these texts; no way at all where there is none."""
    return [(Words.one_of(texts),)] if texts else []


def _parts(content: object, root: object) -> list[object]:
    """The schemas of which a value fits one, without those that only lead to others: what several
    refer to is there once, and what refers to itself adds nothing."""
    found: list[object] = []
    waiting, seen = [content], set[str]()
    while waiting:
        part = waiting.pop()
        reference = part.get("$ref") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(reference, str):
            waiting += [] if reference in seen else [resolve(part, root) or {}]
            seen.add(reference)
        elif isinstance(part, Mapping) and (several := alternatives(part)) is not None:
            waiting += reversed(several[1])
        else:
            found.append(part)
    return found or [{}]


def _choices(content: Mapping[str, Any]) -> list[object] | None:
    """The values that a schema lists."""
    if "const" in content:
        return [content["const"]]
    listed = content.get("enum")
    return listed if isinstance(listed, list) and listed else None
