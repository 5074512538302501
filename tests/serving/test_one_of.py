"""Alternatives of `oneOf`: named as not held where a value may fit two of them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.serving.json_grammar import schema_grammar
from dsv4_mlx.serving.one_of import may_overlap
from dsv4_mlx.serving.unheld import unheld
from tests.serving.test_grammar import fits


def tagged(tag: object, **more: Any) -> dict[str, Any]:
    names = {"kind": {"const": tag}, **more}
    return {"type": "object", "properties": names, "required": ["kind"]}


def named(*names: str, required: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": list(required),
        **more,
    }


APART = {
    "types": [{"type": "string"}, {"type": "integer"}, {"type": ["null", "boolean"]}],
    "values": [{"enum": ["a", "b"]}, {"const": "c"}, {"type": "integer"}],
    "a tag": [tagged("cat", lives={"type": "integer"}), tagged("dog"), {"type": "null"}],
    "names of their own": [named("a", required=("a",)), named("b", required=("b",))],
    "closed": [
        named("a", "b", required=("a", "b"), additionalProperties=False),
        named("a", required=("a",), additionalProperties=False),
    ],
    "types within": [
        {"properties": {"v": {"type": "string"}}, "required": ["v"], "type": "object"},
        {"properties": {"v": {"type": "integer"}}, "required": ["v"], "type": "object"},
    ],
    "five hundred tags": [tagged(f"v{number}") for number in range(500)],
    "one alternative": [{"type": "string"}],
}
OVERLAPPING = {
    "integers are numbers": [{"type": "integer"}, {"type": "number"}],
    "a value of a type": [{"const": "a"}, {"type": "string"}],
    "no type": [{"type": "string"}, {"properties": {"a": {}}}],
    "nullable": [{"type": "string", "nullable": True}, {"type": "null"}],
    "names that need not be": [named("a"), named("b")],
    "the same tag": [tagged("cat"), tagged("cat", lives={})],
    "a tag that need not be": [tagged("cat"), {**tagged("dog"), "required": []}],
    "others may come": [named("a", "b", required=("a",)), named("a", required=("a",))],
    "lists": [{"type": "array", "items": {"type": "string"}}, {"type": "array"}],
    "null beside tags": [{**tagged(tag), "type": ["object", "null"]} for tag in ("a", "b")],
    "types that are none": [{"type": [{}, 1]}, {"type": 2}],
    "put together": [{"allOf": [{"type": "string"}]}, {"type": "integer"}],
    "five hundred names": [named("a", f"b{number}") for number in range(500)],
}


@pytest.mark.parametrize("case", APART)
def test_alternatives_that_are_apart_are_held(case: str) -> None:
    assert unheld({"type": "object", "properties": {"v": {"oneOf": APART[case]}}}) == []


@pytest.mark.parametrize("case", OVERLAPPING)
def test_alternatives_that_may_overlap_are_named(case: str) -> None:
    assert unheld({"type": "object", "properties": {"v": {"oneOf": OVERLAPPING[case]}}}) == [
        "oneOf"
    ]


def test_references_are_followed_in_their_own_schema() -> None:
    apart = {
        "$defs": {"cat": tagged("cat"), "dog": tagged("dog")},
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
    }
    same = {**apart, "$defs": {"cat": tagged("cat"), "dog": tagged("cat")}}
    assert unheld(apart) == [] and unheld(same) == ["oneOf"]
    assert unheld([apart, same]) == ["oneOf"] and unheld([apart, apart]) == []
    knot = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "oneOf": [{"$ref": "#/$defs/a"}, {}]}
    assert unheld(knot) == ["oneOf"]


SCALARS = st.sampled_from(
    [{"type": "integer"}, {"type": "number"}, {"type": "string"}, {"const": 1}, {"enum": ["a", 1]},
     {}, {"type": ["string", "null"]}, {"type": "string", "nullable": True}],
)  # fmt: skip
OBJECTS = st.builds(
    lambda names, required, extra, typed: {
        **({"type": "object"} if typed else {}),
        "properties": names,
        "required": required,
        **extra,
    },
    st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2),
    st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": True}]),
    st.booleans(),
)
LEAVES = [1, 1.5, "a", "b", None]
VALUES = [
    *LEAVES,
    {},
    *({name: value} for name in "abc" for value in LEAVES),
    *({"a": one, "b": other} for one in LEAVES for other in LEAVES),
]


def takes(schema: dict[str, Any], value: Any) -> bool:
    """Whether JSON Schema says so, of the keywords that are drawn here."""
    kinds = {int: ("integer", "number"), float: ("number",), str: ("string",), dict: ("object",)}
    types = schema.get("type", [])
    if value is None and schema.get("nullable"):
        return True
    types = [types] if isinstance(types, str) else types
    if types and not set(types) & set(kinds.get(type(value), ("null",))):
        return False
    if ("const" in schema and value != schema["const"]) or value not in schema.get("enum", [value]):
        return False
    if not isinstance(value, dict):
        return True
    names = schema.get("properties", {})
    if schema.get("additionalProperties") is False and not value.keys() <= names.keys():
        return False
    required = set(schema.get("required", ())) <= value.keys()
    return required and all(takes(names[key], value[key]) for key in value.keys() & names.keys())


@settings(max_examples=80)
@given(
    st.lists(SCALARS | OBJECTS, min_size=2, max_size=3), st.sampled_from([{}, {"type": "object"}])
)
def test_where_nothing_is_named_no_answer_fits_two(
    listed: list[dict[str, Any]], beside: dict[str, Any]
) -> None:
    schema = {**beside, "oneOf": listed}
    if may_overlap(schema, schema):
        return
    grammar = schema_grammar(schema)
    for value in VALUES:
        if fits(grammar, json.dumps(value)):
            assert sum(takes({**beside, **one}, value) for one in listed) <= 1, value
