"""Grammars against Python's JSON and the schemas they are made from."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReplyParser
from dsv4_mlx.chat.schema import Schema
from dsv4_mlx.chat.tokens import DSML
from dsv4_mlx.serving.dsml_grammar import CallGrammar
from dsv4_mlx.serving.grammar import FIRST_CONTROL, GrammarState, Items
from dsv4_mlx.serving.json_grammar import object_grammar, schema_grammar
from dsv4_mlx.serving.unheld import unheld

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def fits(grammar: Items, written: str | bytes) -> bool:
    data = written.encode() if isinstance(written, str) else written
    return GrammarState.at(grammar).after_all(data).is_complete


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.booleans(), st.booleans())
def test_every_object_fits(value: dict[str, Any], ascii_only: bool, indented: bool) -> None:
    written = json.dumps(value, ensure_ascii=ascii_only, indent=2 if indented else None)
    if "\\ud" not in written:  # halves of pairs stand alone in no text of ours
        assert fits(object_grammar(), written)


@settings(max_examples=40)
@given(st.binary(max_size=12))
def test_what_fits_is_an_object(data: bytes) -> None:
    state = GrammarState.at(object_grammar())
    kept = b""
    for byte in b"{" + data:
        if after := state.after(byte):
            state, kept = after, kept + bytes([byte])
    for byte in (b'"', b"0", b":", b"0", b"}", b"]", b"l", b"e", b"u", b"r", b"a", b"s", b"f"):
        assert fits(object_grammar(), kept) == is_object(kept)
        if after := state.after(byte[0]):
            state, kept = after, kept + byte


def is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data.decode()), dict)
    except ValueError:
        return False


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "number"}, "s": {"type": "string"}},
    "required": ["x", "y"],
}
TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "c": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["v"],
        }
    },
}


@pytest.mark.parametrize(
    "schema, right, wrong",
    [
        (POINT, ['{"x": 1, "y": 2.5}', '{"y":-0.1e3,"x":0}', '{"x": 1, "s": "", "y": 0}'],
         ['{"x": 1}', '{"x": 1.5, "y": 0}', '{"x": 1, "y": 0, "z": 1}', '{"x": 1, "x": 1, "y": 1}',
          '{"x": 01, "y": 1}', '{"x": 1, "y": 1,}', "[]"]),
        ({"enum": ["a", 1, None]}, ['"a"', "1", "null"], ['"b"', "2", '"a']),
        ({"const": {"a": [1]}}, ['{"a": [1]}'], ['{"a": [2]}']),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
         ["[true]", "[false, true]"], ["[]", "[true, true, true]", "[1]"]),
        ({"type": ["string", "null"]}, ['"ü\\u00e4\\n"', "null"], ["1", '"\n"', '"\\x"']),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, ["1", '"1"'], ["1.5", "true"]),
        ({"type": "integer", "nullable": True}, ["-5", "null"], ["-", "nul", "+1"]),
        ({"allOf": [POINT, {"required": ["s"]}]}, ['{"x": 1, "y": 1, "s": "a"}'],
         ['{"x": 1, "y": 1}']),
        (TREE, ['{"v": 1}', '{"c": [{"v": 2, "c": []}], "v": 1}'],
         ['{"c": []}', '{"v": {"v": 1}}']),
        ({"type": "object", "additionalProperties": {"type": "integer"}},
         ["{}", '{"a": 1, "b": 2}'], ['{"a": "1"}']),
        ({"type": "object", "additionalProperties": False}, ["{}", "{ }"], ['{"a": 1}']),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
         ["[]", "[1]", '[1, "a"]'], ['["a"]', '[1, "a", 2]', '["a", 1]']),
        ({"prefixItems": [{"type": "integer"}, {"type": "null"}], "type": "array", "minItems": 1,
          "items": {"type": "boolean"}, "maxItems": 3},
         ["[1]", "[1, null]", "[1,null,true]"], ["[]", "[1, true]", "[1, null, true, true]"]),
        ({"type": "object", "propertyNames": {"pattern": "^[a-c]$"}},
         ["{}", '{"a": 1, "c": 2}'], ['{"ab": 1}', '{"d": 1}']),
        ({"type": "string", "minLength": 2, "maxLength": 3},
         ['"ab"', '"\\n🙂é"'], ['"a"', '""', '"abcd"']),
        ({"type": "string", "format": "date-time"},
         ['"2026-11-30T04:20:00Z"', '"1999-01-02T23:59:59.5+01:00"'],
         ['"2026-11-30"', '"2026-13-01T00:00:00Z"', '"2026-11-30 04:20:00Z"']),
        ({"type": "string", "format": "uri"},
         ['"https://a.b/c?d=e#f"', '"mailto:a@b.c"'], ['"a b"', '"http://a b"', '"https"']),
        ({"type": "string", "format": "ipv4"}, ['"127.0.0.1"', '"255.0.9.10"'], ['"256.0.0.1"']),
        ({"type": "string", "format": "email"}, ['"a.b+c@d-e.org"'], ['"a@b"', '"@b.c"']),
        ({}, ["1", "[]", '{"a": null}'], ["", "{", "nul"]),
    ],
)  # fmt: skip
def test_a_schema_takes_what_it_allows(schema: Any, right: list[str], wrong: list[str]) -> None:
    grammar = schema_grammar(schema)
    for written in right:
        assert fits(grammar, written), written
        assert Schema(schema, schema).allows(json.loads(written))
        assert fits(grammar, f"\n  {written}\n")
    for written in wrong:
        assert not fits(grammar, written), written


@pytest.mark.parametrize(
    "parts",
    [
        [{"$ref": "#"}, {"type": "integer"}],
        [{"allOf": [{"$ref": "#/allOf/0"}, {"type": "integer"}]}],
        [5, None, {"type": "integer"}],
        [{"properties": 5}, {"properties": {"a": {}}}, {"required": 5}, {"type": "integer"}],
    ],
)
def test_parts_of_a_schema_that_hold_themselves_or_are_none_add_nothing(parts: Any) -> None:
    grammar = schema_grammar({"allOf": parts})
    assert fits(grammar, "12") and not fits(grammar, '"a"')


@pytest.mark.parametrize("data", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"'])
def test_what_is_no_utf_8_fits_nowhere(data: bytes) -> None:
    assert not fits(schema_grammar({"type": "string"}), data)


def test_keywords_that_are_not_held_to_are_named() -> None:
    held = {
        "pattern": {"type": "string", "pattern": "^a+$", "description": "A pattern."},
        "format": {"type": "string", "format": "date"},
        "b": {"type": "integer", "minimum": 0.5, "exclusiveMaximum": 7},
        "c": {"type": "number", "maximum": 1},
        "d": {"minLength": 1, "maxLength": 3, "default": {"multipleOf": 3}},
    }
    assert unheld({"properties": held, "required": ["pattern"]}) == []
    not_held = {
        "a": {"type": "string", "pattern": "(?=x)", "minLength": 1},
        "b": {"type": "number", "minimum": 0.5},
        "c": {"items": {"type": "string", "format": "iri", "uniqueItems": True}},
    }
    assert sorted(unheld({"properties": not_held})) == [
        "format", "minimum", "pattern", "uniqueItems",
    ]  # fmt: skip


# Calls

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "edit",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "lines": {"type": "array", "items": {"type": "integer"}},
                    "mode": {"enum": ["all", "first"]},
                    "any": {},
                    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["path"],
            },
        },
    },
    {"name": "list"},
]


def block(*calls: str) -> str:
    return f"\n\n<{DSML}tool_calls>\n" + "".join(calls) + f"</{DSML}tool_calls>"


def call(name: str, *parameters: tuple[str, str, str]) -> str:
    inside = "\n".join(
        f'<{DSML}parameter name="{key}" string="{kind}">{value}</{DSML}parameter>'
        for key, kind, value in parameters
    )
    return f'<{DSML}invoke name="{name}">\n{inside}\n</{DSML}invoke>\n'


MARKER = 11
KNOT = {"$ref": "#/$defs/knot"}
CALLS = CallGrammar(TOOLS, {DSML: MARKER})


def symbols(written: str) -> list[int]:
    """Text in which the marker is a control token."""
    first, *others = written.split(DSML)
    found = list(first.encode())
    for part in others:
        found += [FIRST_CONTROL + MARKER, *part.encode()]
    return found


def is_call(grammar: Items, written: str) -> bool:
    return GrammarState.at(grammar).after_all(symbols(written)).is_complete


@pytest.mark.parametrize(
    "written, is_right",
    [
        (block(call("edit", ("path", "true", 'a "b" </x> ü\n</parameter>'))), True),
        (block(call("edit", ("lines", "false", "[1, 2]"), ("path", "true", ""))), True),
        (block(call("edit", ("path", "true", "007"), ("mode", "true", "all"))), True),
        (block(call("edit", ("path", "true", "a"), ("maybe", "false", "null"))), True),
        (block(call("edit", ("path", "true", "a"), ("any", "false", '{"x": "y"}'))), True),
        (block(call("list"), call("list")), True),
        (block(call("edit")), False),
        (block(call("edit", ("path", "false", "1"))), False),
        (block(call("edit", ("path", "true", "a"), ("mode", "true", "some"))), False),
        (block(call("edit", ("path", "true", "a"), ("lines", "false", '["1"]'))), False),
        (block(call("edit", ("path", "true", "a"), ("path", "true", "a"))), False),
        (block(call("edit", ("path", "true", "a"), ("other", "true", "a"))), False),
        (block(call("other")), False),
        (block(), False),
        ("Let me see." + block(call("list")), False),
    ],
)
def test_calls_fit_as_their_schemas_allow(written: str, is_right: bool) -> None:
    assert is_call(CALLS.calls(["edit", "list"], several=True), written) == is_right
    if is_right:
        parser = ReplyParser("chat", tools=TOOLS)
        events = [*parser.feed(written), *parser.finish()]
        assert all(isinstance(event, ToolCall) for event in events) and events


def test_a_named_tool_is_the_only_one_and_a_single_call_single() -> None:
    one = CALLS.calls(["list"], several=False)
    assert is_call(one, block(call("list")))
    assert not is_call(one, block(call("list"), call("list")))
    assert not is_call(one, block(call("edit", ("path", "true", "a"))))


# Strings and numbers

PATTERNS = (
    "^[a-c]+$", "b", "^a|c$", "^(ab|c){2,3}$", r"^\d{2}-\w?\S$", "a.c", r"^[^ab]*$", r"\.a\\",
    r"^[\d.-]+$", "^(?:a|b)??c*$", r"^\u00e9[à-ÿ]$", "^$", r"^a{2}b{1,}$", "a+?",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_a_pattern_finds_fits(pattern: str) -> None:
    grammar = schema_grammar({"type": "string", "pattern": pattern})
    known = re.compile(pattern.replace("$", r"\Z"), re.ASCII)
    letters = st.sampled_from([*'abcA0 1.-\\"', "\x00", "é", "ÿ", "🙂", "ab", "12-x", "\u00e9à"])

    @settings(max_examples=60)
    @given(st.lists(letters, max_size=7).map("".join) | st.from_regex(known))
    def fits_as_found(value: str) -> None:
        if "\n" not in value and "\r" not in value:
            written = json.dumps(value, ensure_ascii=False)
            assert fits(grammar, written) == bool(known.search(value)), value

    fits_as_found()


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)", "(a)\\1", r"\ba", r"\p{L}", "a(", "a)", "[a", "*", "a{", "a{3,2}", "(?i)a", "a^b",
     "[^é]", "[一-龥]", "[]", "((a{999}){999})", "a{1001}", "(" * 5000, r"[\d-z]", r"\ud83d", "\\"],
)  # fmt: skip
def test_a_pattern_that_is_not_read_is_named(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert unheld(schema) == ["pattern"]
    assert fits(schema_grammar(schema), '"anything"')


BOUND = st.none() | st.integers(-1200, 1200)


@settings(max_examples=150)
@given(BOUND, BOUND, st.booleans(), st.booleans(), st.integers(-1300, 1300), st.integers(0, 999))
def test_numbers_fit_between_bounds(low, high, low_out, high_out, whole, thousandths) -> None:
    bounds = {}
    for name, bound, is_out in (("Minimum", low, low_out), ("Maximum", high, high_out)):
        if bound is not None:
            bounds[f"exclusive{name}" if is_out else name.lower()] = bound

    def inside(value: float) -> bool:
        above = low is None or value > low or (value == low and not low_out)
        return above and (high is None or value < high or (value == high and not high_out))

    integers, numbers = ({"type": kind, **bounds} for kind in ("integer", "number"))
    if not unheld(integers):
        assert fits(schema_grammar(integers), str(whole)) == inside(whole)
    if not unheld(numbers):
        for written in (str(whole), f"{whole}.{thousandths:03}", f"{whole}.000"):
            assert fits(schema_grammar(numbers), written) == inside(float(written)), written


@pytest.mark.parametrize(
    "bounds, right, wrong",
    [
        ({"minimum": 1.5, "maximum": 3.5}, ["2", "3"], ["1", "4"]),
        ({"minimum": 0, "maximum": 9007199254740991}, ["0", "9007199254740991"],
         ["-1", "9007199254740992"]),
        ({"minimum": 5, "exclusiveMinimum": True}, ["6"], ["5"]),
        ({"minimum": 10**400, "maximum": float("inf")}, ["3"], ["3.5"]),
        ({"minimum": 3, "maximum": 2}, ["7"], []),
    ],
)  # fmt: skip
def test_bounds_of_integers(bounds: Any, right: list[str], wrong: list[str]) -> None:
    grammar = schema_grammar({"type": "integer", **bounds})
    assert all(fits(grammar, written) for written in right)
    assert not any(fits(grammar, written) for written in wrong)


def test_strings_of_calls_are_held_to_too() -> None:
    properties = {"k": {"type": "string", "pattern": '^a"[0-9]$'}, "n": {"maximum": 3}}
    tool = {"name": "f", "parameters": {"properties": properties, "required": ["k"]}}
    grammar = CallGrammar([tool], {}).calls(["f"], several=False)

    def call(value: str) -> str:
        return (
            f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="f">\n<{DSML}parameter name="k" '
            f'string="true">{value}</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>'
        )

    assert fits(grammar, call('a"7'))
    assert not fits(grammar, call("a7")) and not fits(grammar, call('a\\"7'))


@pytest.mark.parametrize("knot", [{"anyOf": [{"type": "integer"}, KNOT, KNOT]}, KNOT])
def test_arguments_of_a_kind_that_refers_to_itself_are_what_else_it_says(knot: Any) -> None:
    schema = {"type": "object", "properties": {"k": KNOT}, "$defs": {"knot": knot}}
    tool = {"name": "f", "parameters": schema}
    grammar = CallGrammar([tool], {DSML: MARKER}).calls(["f"], several=False)
    assert is_call(grammar, block(call("f", ("k", "false", "7"))))
    assert is_call(grammar, block(call("f", ("k", "true", "7")))) is (knot is KNOT)
