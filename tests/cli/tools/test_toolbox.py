"""Definitions, arguments that do not fit, and results on their way to the model."""

import json
from pathlib import Path

import pytest

from cli.tools.schema import check
from cli.tools.tool import ToolError
from cli.tools.toolbox import Toolbox
from dsv4_mlx.chat.encoding import encode_messages
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import V4_TOKENS
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.engine import NANO
from tests.cli.tools.asking import Person, run, toolbox

BUILT_IN = [
    "read_file", "list_folder", "search_in_files", "calculator", "write_file", "run_command",
]  # fmt: skip


def test_the_built_in_tools_are_defined_as_openai_writes_them(tmp_path: Path) -> None:
    definitions = toolbox(tmp_path).definitions()
    assert [definition["function"]["name"] for definition in definitions] == BUILT_IN
    assert {definition["type"] for definition in definitions} == {"function"}
    assert all(d["function"]["parameters"]["type"] == "object" for d in definitions)


def test_the_encoder_takes_the_definitions(tmp_path: Path) -> None:
    system = {"role": "system", "content": "", "tools": toolbox(tmp_path).definitions()}
    prompt = str(encode_messages([system, {"role": "user", "content": "x"}]))
    assert all(f'"name": "{name}"' in prompt for name in BUILT_IN)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("fly", "{}", "There is no tool 'fly'; the tools are read_file,"),
        ("calculator", "2+2", "The arguments must be a JSON object: "),
        ("calculator", "[1]", "The arguments must be a JSON object: the text holds a list"),
        ("calculator", "[" * 100_000, "The arguments must be a JSON object: "),
        ("calculator", "", "The argument expression is missing."),
        ("calculator", '{"expression": 4}', "The argument expression must be a string, got 4."),
        ("calculator", '{"sum": "4"}', "The argument expression is missing."),
        ("read_file", '{"path": "a", "x": 1}', "There is no argument x; there are: path,"),
        ("read_file", '{"path": "a", "lines": 0}', "The argument lines must be at least 1, got 0."),
        ("read_file", '{"path": "a", "lines": 1.5}', "The argument lines must be a whole number,"),
        ("read_file", '{"path": "a", "lines": true}', "The argument lines must be a whole number,"),
        ("run_command", '{"command": ""}', "The argument command must have at least 1 characters"),
    ],
)
def test_wrong_calls_are_a_sentence_for_the_model(
    tmp_path: Path, name: str, arguments: str, sentence: str
) -> None:
    person = Person("y")
    text = toolbox(tmp_path, person).run(ToolCall(name, arguments))
    assert text.startswith(f"Error: {sentence}")
    assert "\n" not in text
    assert person.asked == []


def test_a_calculation_needs_no_permission(tmp_path: Path) -> None:
    person = Person()
    assert run(toolbox(tmp_path, person), "calculator", expression="6 * 7") == "42"
    assert person.asked == []


def test_control_tokens_in_a_result_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(V4_TOKENS), encoding="utf-8")
    result = run(toolbox(tmp_path), "read_file", path="a.txt")
    assert result == "".join(V4_TOKENS)
    tokenizer = Tokenizer(NANO)

    def controls(text: str) -> list[int]:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": text},
        ]
        ids = tokenizer.encode(encode_messages(messages))
        return [index for index in ids if index in tokenizer.control_ids.values()]

    assert controls(result) == controls("plain")


def test_a_result_is_always_text_that_a_prompt_can_hold(tmp_path: Path) -> None:
    text = toolbox(tmp_path).run(ToolCall("read_file", json.dumps({"path": "\ud800"})))
    text.encode("utf-8")
    assert text.startswith("Error: ")


@pytest.mark.parametrize("path", ["~\ud800x", "~nosuch", "~nosuch/a", "~\ud800/a"])
def test_a_home_folder_that_nobody_has_is_a_sentence(tmp_path: Path, path: str) -> None:
    box = toolbox(tmp_path)
    for tool in ("read_file", "list_folder"):
        text = run(box, tool, path=path)
        text.encode("utf-8")
        assert text.startswith("Error: ")
    assert run(box, "write_file", path=path, content="a").startswith("Error: ")


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^Tools need a working folder, and .* cannot be opened"):
        Toolbox(tmp_path / "gone", Person())


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1.0, {"type": "integer"}),
        (None, {"type": ["string", "null"]}),
        ([1, 2], {"type": "array", "items": {"type": "integer"}}),
        ({"a": 1}, {"type": "object", "additionalProperties": True}),
        ("x", {"anyOf": [{"type": "integer"}]}),
        ("x", {"type": "unheard of"}),
        ("x", True),
    ],
)
def test_what_fits_or_cannot_be_judged_passes(value: object, schema: object) -> None:
    check(value, schema)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "schema", "sentence"),
    [
        ("c", {"enum": ["a", "b"]}, 'The argument x must be one of "a", "b", got "c".'),
        ([1, "a"], {"items": {"type": "integer"}}, "The argument x[1] must be a whole number, got"),
        ({"b": {}}, {"properties": {"b": {"required": ["c"]}}}, "The argument x.b.c is missing."),
        (7, {"maximum": 5}, "The argument x must be at most 5, got 7."),
        ("abc", {"maxLength": 2}, "The argument x may have 2 characters and has 3."),
        (True, {"type": "number"}, "The argument x must be a number, got true."),
    ],
)
def test_what_does_not_fit_is_named(value: object, schema: dict, sentence: str) -> None:
    with pytest.raises(ToolError) as error:
        check(value, schema, "x")
    assert str(error.value).startswith(sentence)
