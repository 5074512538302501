"""Bodies of OpenAI's responses: what the model reads of them."""

import json
from typing import Any

import pytest

from cli.serve.faults import RequestFault
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.responses_tools import FreeText
from cli.serve.sealing import Seals
from dsv4_mlx.serving.request import AnswerFormat, GenerationRequest, ToolChoice
from tests.cli.serve.driven import Server, context, script

SEALS = Seals.for_now()
LOOK = {"type": "function", "name": "look", "description": "Looks.", "parameters": {}}
PATCH = {"type": "custom", "name": "patch", "description": "Patches."}
NOTES = {"type": "namespace", "name": "mcp__notes", "tools": [{**LOOK, "name": "find"}]}
SEARCH = {"type": "web_search"}


def body(given: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "nano", "input": given, **fields}


def dialect() -> ResponsesDialect:
    return ResponsesDialect(SEALS, KeptResponses())


def read(given: Any = "Hi", **fields: Any) -> GenerationRequest:
    return dialect().read(body(given, **fields), context()).request


def message(role: str, *texts: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": text} for text in texts]
    return {"type": "message", "role": role, "content": content}


def call(name: str, /, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": name, "name": "look", "arguments": "{}", **fields}


def output(name: str, told: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": told}


def thought(**fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], **fields}


def test_a_text_is_what_a_user_says_and_instructions_come_first() -> None:
    assert list(read(instructions="Be.").messages) == [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": "Hi"},
    ]


def test_reasoning_text_and_calls_that_follow_one_another_are_one_reply() -> None:
    sealed = SEALS.seal("somebody", "I think. ")
    given = [
        {"role": "user", "content": "Hi"},
        thought(encrypted_content=sealed, content=None),
        message("assistant", "I ", "look."),
        call("one", arguments='{"at": 1}', id="fc_1", status="completed"),
        call("two"),
        output("two", [{"type": "input_text", "text": "2"}]),
        output("one", "1"),
        message("assistant", "So."),
    ]
    first, reply, *results, last = read(given).messages
    assert first == {"role": "user", "content": "Hi"}
    assert (reply["reasoning_content"], reply["content"]) == ("I think. ", "I look.")
    assert [one["id"] for one in reply["tool_calls"]] == ["one", "two"]
    assert [one["content"] for one in results] == ["2", "1"]
    assert last == {"role": "assistant", "content": "So."}


def test_reasoning_after_an_answer_begins_another_reply() -> None:
    summary = [{"type": "summary_text", "text": "Once more."}]
    given = ["Hm", "So"]
    items = [message("assistant", given[0]), thought(summary=summary), message("assistant", "So")]
    assert [one.get("reasoning_content") for one in read(items).messages] == [None, "Once more."]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"encrypted_content": "gAAAAABm"}, None),
        (
            {"encrypted_content": "gAAAAABm", "summary": [{"type": "summary_text", "text": "s"}]},
            None,
        ),
        ({"summary": [{"type": "summary_text", "text": "s"}]}, "s"),
        ({"content": [{"type": "reasoning_text", "text": "c"}]}, "c"),
        ({"encrypted_content": SEALS.seal("somebody", "x"), "content": None}, "x"),
        ({"encrypted_content": SEALS.seal("another", "x")}, None),
    ],
)
def test_whose_reasoning_is_read(fields: Any, told: str | None) -> None:
    messages = read([thought(**fields), message("assistant", "So"), message("user", "?")]).messages
    assert messages[0].get("reasoning_content") == told


def test_developer_messages_stand_in_their_place() -> None:
    server = Server(dialect(), script("Yes."))
    begins = [message("developer", "Be."), message("user", "Hi"), message("assistant", "Hello")]
    before = server.prompt(body([*begins, message("user", "So?")]))
    after = server.prompt(body([*begins, message("user", "So?"), message("developer", "Soon.")]))
    start = before[: before.index("So?") + 3]
    assert after.startswith(start) and "Soon." in after[len(start) :]


def test_tools_of_every_kind_are_functions_and_served_ones_are_left_out() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: ANY"}
    request = read(tools=[LOOK, {**PATCH, "format": grammar}, NOTES, SEARCH])
    look, patch, find = request.settings.tools
    assert (look["name"], find["name"]) == ("look", "mcp__notes__find")
    assert look["parameters"] == {"type": "object", "properties": {}}
    assert patch["parameters"]["required"] == ["input"] and "start: ANY" in patch["description"]


def test_calls_of_every_kind_are_read_by_the_names_that_the_model_has() -> None:
    free = {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": 'say("hi")'}
    items = [
        free,
        call("b", name="find", namespace="mcp__notes"),
        {"type": "custom_tool_call_output", "call_id": "a", "output": "done"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        message("user", "?"),
    ]
    reply, result, _ = read(items, tools=[PATCH, NOTES]).messages
    patch, find = (one["function"] for one in reply["tool_calls"])
    assert patch == {"name": "patch", "arguments": {"input": 'say("hi")'}}
    assert find["name"] == "mcp__notes__find"
    assert result == {"role": "tool", "tool_call_id": "a", "content": "done"}


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "look"}, ToolChoice("named", "look")),
        ({"type": "custom", "name": "patch"}, ToolChoice("named", "patch")),
        ({"type": "web_search"}, ToolChoice()),
    ],
)
def test_which_tools_are_called(asked: Any, choice: ToolChoice) -> None:
    assert read(tools=[LOOK, PATCH, SEARCH], tool_choice=asked).tool_choice == choice


@pytest.mark.parametrize(
    ("mode", "tools", "choice"),
    [
        ("required", [PATCH], ToolChoice("required", allowed=("patch",))),
        ("auto", [PATCH, LOOK], ToolChoice(allowed=("look", "patch"))),
        ("required", [SEARCH], ToolChoice(allowed=())),
    ],
)
def test_of_allowed_tools_the_others_stay_in_the_prompt(
    mode: str, tools: list[Any], choice: ToolChoice
) -> None:
    allowed = {"type": "allowed_tools", "mode": mode, "tools": tools}
    request = read(tools=[LOOK, PATCH, SEARCH], tool_choice=allowed)
    assert [tool["name"] for tool in request.settings.tools] == ["look", "patch"]
    assert request.tool_choice == choice


def test_a_call_is_not_required_where_no_tool_is_here() -> None:
    assert read(tools=[SEARCH], tool_choice="required").tool_choice == ToolChoice()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "text"}, AnswerFormat()),
        ({"type": "json_object"}, AnswerFormat("json")),
        ({"type": "json_schema", "name": "x", "schema": {"type": "object"}}, None),
    ],
)
def test_formats(given: Any, expected: AnswerFormat | None) -> None:
    expected = expected or AnswerFormat("schema", {"type": "object"})
    assert read(text={"format": given, "verbosity": "low"}).answer_format == expected


@pytest.mark.parametrize(
    ("effort", "level"),
    [(None, "low"), ("none", "none"), ("minimal", "none"), ("medium", "high"), ("xhigh", "max")],
)
def test_efforts(effort: str | None, level: str) -> None:
    assert read(reasoning={"effort": effort}).settings.thinking.level == level


def test_one_that_asks_for_little_and_is_not_stored_is_beside_a_conversation() -> None:
    little: dict[str, Any] = {"store": False, "max_output_tokens": 64}
    assert read(**little).is_side
    assert read(store=False, text={"format": {"type": "json_object"}}).is_side
    for more in ({"store": True}, {"tools": [LOOK]}, {"max_output_tokens": 4096}):
        assert not read(**{**little, **more}).is_side


def test_the_numbers_of_a_reply() -> None:
    request = read(max_output_tokens=99, temperature=0, top_p=0.5, parallel_tool_calls=False)
    sampling = request.settings.sampling
    assert (sampling.temperature, sampling.top_p) == (0, 0.5)
    assert (request.settings.max_tokens, request.several_calls) == (99, False)


@pytest.mark.parametrize(
    ("faulty", "field"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input[0]"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        ({"input": [call("")]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"stream": "yes"}, "stream"),
        ({"model": "gpt"}, "model"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_which_field(faulty: Any, field: str) -> None:
    with pytest.raises(RequestFault) as raised:
        dialect().read(body() | faulty, context())
    fault = raised.value.fault
    assert fault.field == field and fault.sentence.endswith(".")
    assert dialect().error(fault).body["error"]["param"] == field


@pytest.mark.parametrize(
    "text",
    ["", "one", 'say("hi")\n\t\\', "ü 🎉 é", "\\u0041\\", "\x00\x1f", "🎉" * 5],
)
@pytest.mark.parametrize("escapes", [True, False])
def test_free_text_comes_out_of_arguments_however_they_are_cut(text: str, escapes: bool) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=escapes)
    for size in (1, 2, 3, 7, 100):
        free = FreeText()
        pieces = [
            free.feed(arguments[start : start + size]) for start in range(0, len(arguments), size)
        ]
        assert "".join(pieces) == text
        assert free.finish(arguments) == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (json.dumps({"a": 1, "input": "x"}), "x"),
        (json.dumps({"patch": "x"}), '{"patch": "x"}'),
        (json.dumps({"input": 7}), '{"input": 7}'),
    ],
)
def test_free_text_in_unusual_arguments_comes_at_the_end(arguments: str, text: str) -> None:
    free = FreeText()
    assert free.feed(arguments) == ""
    assert free.finish(arguments) == free.text == text
