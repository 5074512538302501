"""Values of arguments: what the attribute says, what the schema of the tool says."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.tools.schema import check
from cli.tools.tool import ToolError
from dsv4_mlx.chat import ReplyParser, ToolCall, parse
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.tokens import DSML


def called(parameters: list[tuple[str, str | None, str]], properties=None, **schema) -> object:
    """The arguments of one call, given its parameters as (name, attribute, text)."""
    body = "".join(
        f'<{DSML}parameter name="{name}"' + (f' string="{kind}"' if kind else "") + f">{text}"
        f"</{DSML}parameter>\n"
        for name, kind, text in parameters
    )
    return _arguments(body, properties, **schema)


def _arguments(body: str, properties=None, **schema) -> object:
    if properties is not None:
        schema["properties"] = properties
    tools = [{"function": {"name": "f", "parameters": schema}}] if schema else []
    parser = ReplyParser("chat", tools=tools)
    events = parser.feed(f'<{DSML}invoke name="f">\n{body}</{DSML}invoke>') + parser.finish()
    (call,) = [event for event in events if isinstance(event, ToolCall)]
    return json.loads(call.arguments)


def value(text: str, kind: str | None, schema: object, **whole: object) -> object:
    (found,) = called([("v", kind, text)], {"v": schema}, **whole).values()
    return found


STRING, NUMBER = {"type": "string"}, {"type": "number"}
DEFS = {"$defs": {"n": {"type": ["integer", "null"]}, "o": {"$ref": "#/$defs/o"}}}
# text, attribute, schema of the value, the value
CASES = [
    ("5", "true", {"type": "integer"}, 5),
    ("5", "false", STRING, "5"),
    ("5", None, STRING, "5"),
    ('{"a": 1}', "false", STRING, '{"a": 1}'),
    ('{"a": 1}', "true", STRING, '{"a": 1}'),
    ("[1]", None, STRING, "[1]"),
    ("null", None, STRING, "null"),
    ("true", "false", STRING, "true"),
    ('"a"', None, STRING, '"a"'),
    ('"a"', "false", STRING, "a"),
    ("1.5", "true", NUMBER, 1.5),
    ("true", "true", {"type": "boolean"}, True),
    ("True", "true", {"type": "boolean"}, True),
    ("False", "false", {"type": "boolean"}, False),
    ("null", "true", {"type": "null"}, None),
    ("None", None, {"type": ["string", "null"]}, "None"),
    ("None", None, {"type": ["integer", "null"]}, None),
    ("null", "false", {"type": ["string", "null"]}, None),
    ("null", "true", {"type": ["string", "null"]}, "null"),
    ("null", "true", {"type": "integer", "nullable": True}, None),
    ("null", "true", {**STRING, "nullable": True}, "null"),
    ("[1, 2]", "true", {"type": "array", "items": NUMBER}, [1, 2]),
    ("[1, 2]", "true", {"items": NUMBER}, [1, 2]),
    ('{"a": 1}', "true", {"type": "object"}, {"a": 1}),
    ('{"a": 1}', "true", {"properties": {"a": NUMBER}}, {"a": 1}),
    ('"{\\"a\\": 1}"', "false", {"type": "object"}, {"a": 1}),
    ("3", "true", {"anyOf": [NUMBER, {"type": "null"}]}, 3),
    ("3", "true", {"anyOf": [NUMBER, STRING]}, "3"),
    ("3", "false", {"anyOf": [NUMBER, STRING]}, 3),
    ("3", None, {"oneOf": [NUMBER, STRING]}, 3),
    ("3", "true", {"allOf": [NUMBER, {"minimum": 1}]}, 3),
    ("2", "true", {"enum": [1, 2]}, 2),
    ("2", "false", {"enum": ["1", "2"]}, "2"),
    ("1", "false", {"enum": [True, "1"]}, "1"),
    (" red\n", "true", {"enum": ["red"]}, "red"),
    ("2", "true", {"const": 2}, 2),
    ("7", "true", {"$ref": "#/$defs/n"}, 7),
    ("null", "true", {"$ref": "#/$defs/n"}, None),
    ("7", "true", {"$ref": "#/$defs/o"}, "7"),  # refers to itself, and so says nothing
    ("7", "false", {"$ref": "http://elsewhere"}, 7),
    ("x", "true", NUMBER, "x"),  # fits nothing, and the tool says so
    ("NaN", "false", NUMBER, "NaN"),
    ("7", "true", {}, "7"),
    ("7", "true", True, "7"),
    ("7", "false", "nonsense", 7),
    ("7", "false", {"type": "nonsense"}, 7),
    ("7", "false", {"type": [["x"]], "enum": 3, "anyOf": [], "$ref": 1}, 7),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "schema", "wanted"), CASES)
def test_the_schema_decides(text, kind, schema, wanted) -> None:
    found = value(text, kind, schema, **DEFS)
    assert (found, type(found)) == (wanted, type(wanted))


@pytest.mark.parametrize("kind", ["true", "false", None])
@pytest.mark.parametrize("text", ["5", '{"a": 1}', "x", "null"])
@pytest.mark.parametrize("tools", [[], [{"name": "other", "parameters": {}}], [{"name": "f"}]])
def test_without_a_schema_the_attribute_decides(text, kind, tools) -> None:
    attribute = f' string="{kind}"' if kind else ""
    parser = ReplyParser("chat", tools=tools)
    parser.feed(f'<{DSML}invoke name="f">\n<{DSML}parameter name="v"{attribute}>{text}')
    (call,) = parser.feed(f"</{DSML}parameter>\n</{DSML}invoke>")
    wanted = text if kind == "true" or text == "x" else json.loads(text)
    assert json.loads(call.arguments) == {"v": wanted}


def test_properties_are_found_through_references_and_parts() -> None:
    parts = {"allOf": [{"$ref": "#/$defs/more"}], "$defs": {"more": {"properties": {"v": NUMBER}}}}
    assert called([("v", "true", "1")], **parts) == {"v": 1}
    assert called([("v", "true", "1")], additionalProperties=NUMBER) == {"v": 1}


def test_wrapped_arguments_are_unwrapped_where_the_tool_has_none_of_that_name() -> None:
    wrapped = [("arguments", "false", '{"v": "1", "w": 2}')]
    assert called(wrapped, {"v": NUMBER, "w": STRING}) == {"v": 1, "w": "2"}
    assert called(wrapped, {"arguments": {"type": "object"}}) == {"arguments": {"v": "1", "w": 2}}
    assert called(wrapped) == {"arguments": {"v": "1", "w": 2}}


def test_one_object_as_the_body_follows_the_schema_too() -> None:
    found = _arguments('{"v": "1", "w": 2}\n', {"v": NUMBER, "w": STRING})
    assert found == {"v": 1, "w": "2"}


@pytest.mark.parametrize("text", ["1e999", "\ufeff5", "NaN", "[1,]", "5 6", "[" * 100_000])
@pytest.mark.parametrize("kind", ["true", "false", None])
def test_what_no_json_reader_takes_is_text(text: str, kind: str | None) -> None:
    assert value(text, kind, {}) == text


@pytest.mark.parametrize("depth", [3, 40])
def test_a_knot_of_references_takes_no_time(depth: int) -> None:
    """Twice the next one at every step: 2^40 ways, each part looked at once."""
    ends = {"type": "integer"}
    defs = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} if i < depth else ends
        for i in range(depth + 1)
    }
    found = called([("v", "false", "1")], {"v": {"$ref": "#/$defs/d0"}}, **{"$defs": defs})
    assert found == {"v": 1}
    assert called([("v", "true", "1")], **{"$defs": defs, "$ref": "#/$defs/d0"}) == {"v": "1"}


# Whatever fits its schema comes through the encoder and back as it was.

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="｜"), max_size=8)
LOOKALIKES = TEXTS | st.sampled_from(["5", "true", "null", "[1]", '{"a": 1}', '"q"', " 1", "1e5"])
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
KINDS = {
    "string": LOOKALIKES,
    "integer": st.integers(),
    "number": NUMBERS,
    "boolean": st.booleans(),
    "null": st.none(),
    "array": st.lists(LOOKALIKES | NUMBERS, max_size=3),
    "object": st.dictionaries(LOOKALIKES, LOOKALIKES | NUMBERS, max_size=3),
}


@st.composite
def typed_values(draw: st.DrawFn):
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=3, unique=True))
    found = draw(KINDS[kinds[0]])
    shape = draw(st.sampled_from(["plain", "anyOf", "ref", "nullable", "enum"]))
    kinds = sorted(kinds)
    schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    if shape == "anyOf":
        schema = {"anyOf": [{"type": kind} for kind in kinds]}
    elif shape == "ref":
        return found, {"$ref": "#/$defs/it"}, {"it": schema}
    elif shape == "nullable":
        schema = {**schema, "nullable": True}
    elif shape == "enum":
        schema = {"enum": [found, draw(KINDS["string"])]}
    return found, schema, {}


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), typed_values(), max_size=3))
def test_what_fits_its_schema_comes_back_as_it_was(entries) -> None:
    values = {name: found for name, (found, _, _) in entries.items()}
    reply = {"role": "assistant", "content": "", "tool_calls": [
        {"function": {"name": "f", "arguments": values}}
    ]}  # fmt: skip
    text = str(encode_messages([reply], context=[{"role": "user", "content": "q"}]))
    defs = {name: whole for _, _, part in entries.values() for name, whole in part.items()}
    if sum(len(part) for _, _, part in entries.values()) > 1:
        defs = {}  # each with its own would need other names; without, it says nothing
    schema = {"properties": {name: part for name, (_, part, _) in entries.items()}, "$defs": defs}
    parser = ReplyParser("chat", tools=[{"name": "f", "parameters": schema}])
    parser.feed(text)
    (call,) = parser.close()["tool_calls"]
    found = json.loads(call["function"]["arguments"])
    assert json.dumps(found) == json.dumps(values)
    assert parse(text)["tool_calls"][0] == call


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"]),
       st.data(), st.sampled_from(["true", "false", None]))  # fmt: skip
def test_what_can_be_read_as_declared_is_read_so(kind, data, attribute) -> None:
    """With a wrong attribute or none the value fits all the same, and is what was meant."""
    meant = data.draw(KINDS[kind])
    text = meant if isinstance(meant, str) else json.dumps(meant)
    found = value(text, attribute, {"type": kind})
    if kind == "string" and attribute == "false" and _is_json_string(text):
        meant = json.loads(text)  # this is what string="false" says
    assert json.dumps(found) == json.dumps(meant)
    try:
        check({"v": found}, {"type": "object", "properties": {"v": {"type": kind}}})
    except ToolError as error:
        raise AssertionError(error) from error


def _is_json_string(text: str) -> bool:
    try:
        return isinstance(json.loads(text), str)
    except ValueError:
        return False
