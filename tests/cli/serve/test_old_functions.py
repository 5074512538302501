"""The old form of tools: a body with `functions` is read as one with tools and answered alike."""

from typing import Any

import pytest

from cli.serve.chat_completions import ChatCompletions
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.driven import Server, context
from tests.cli.serve.driven import script as driven_script
from tests.cli.serve.served_app import Answer, asked

LS = {"name": "ls", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}
CALLS = ({"name": "ls", "arguments": {"path": "."}},)
CALL = ScriptedReply("Let me look.", CALLS)
ARGUMENTS = '{"path": "."}'
HELLO = {"role": "user", "content": "Hello"}
CALLED = {
    "role": "assistant", "content": None, "function_call": {"name": "ls", "arguments": ARGUMENTS},
}  # fmt: skip
RESULT = {"role": "function", "name": "ls", "content": "a.py"}


def prompt(**body: Any) -> str:
    server = Server(ChatCompletions(), driven_script("Yes."))
    return server.prompt({"messages": [HELLO], **body})


def test_a_call_is_answered_in_the_form_it_was_asked_in() -> None:
    (choice,) = asked(CALL, functions=[LS]).json["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "ls", "arguments": ARGUMENTS}
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"] == "Let me look."


def test_a_streamed_call_is_a_name_and_pieces_of_its_arguments() -> None:
    answer: Answer = asked(CALL, functions=[LS], function_call="auto", stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in answer.chunks]
    assert not any("tool_calls" in delta for delta in deltas)
    first, *pieces = [delta["function_call"] for delta in deltas if "function_call" in delta]
    assert first == {"name": "ls", "arguments": ""}
    assert "".join(piece["arguments"] for piece in pieces) == ARGUMENTS
    assert all(set(piece) == {"arguments"} for piece in pieces)
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "function_call"


def test_an_answer_without_a_call_is_as_ever() -> None:
    (choice,) = asked("Hi.", functions=[LS], function_call="none").json["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Hi.", "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_the_prompt_is_that_of_the_same_tools_and_messages() -> None:
    tool = {"type": "function", "function": LS}
    assert prompt(functions=[LS]) == prompt(tools=[tool])
    call = {"type": "function", "id": "a", "function": CALLED["function_call"]}
    new = [
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "a.py"},
    ]
    old = [{**HELLO, "function_call": None}, CALLED, RESULT]
    assert prompt(functions=[LS], messages=old) == prompt(tools=[tool], messages=new)


def test_what_is_chosen_holds_and_one_call_is_made() -> None:
    def request(**body: Any) -> Any:
        body = {"messages": [HELLO], "functions": [LS], **body}
        return ChatCompletions().read(body, context()).request

    named = request(function_call={"name": "ls"})
    assert (named.tool_choice.kind, named.tool_choice.name) == ("named", "ls")
    assert request(function_call="none").tool_choice.kind == "none"
    assert request().tool_choice.kind == "auto" and not request().several_calls


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"functions": {}}, "functions"),
        ({"functions": ["ls"]}, "functions[0]"),
        ({"functions": [LS, {"name": ""}]}, "functions[1]"),
        ({"functions": [{"name": "ls", "parameters": 5}]}, "functions[0].parameters"),
        ({"functions": [LS], "tools": []}, "tools"),
        ({"functions": [LS], "tool_choice": "auto"}, "tool_choice"),
        ({"functions": [LS], "function_call": {"name": "rm"}}, "function_call"),
        ({"functions": [LS], "function_call": "perhaps"}, "function_call"),
        ({"function_call": {"name": "ls"}}, "function_call"),
        ({"messages": [HELLO, {**CALLED, "function_call": "ls"}]}, "messages"),
        ({"messages": [HELLO, {**CALLED, "function_call": {"name": "ls"}}]}, "messages"),
        ({"messages": [HELLO, {**CALLED, "tool_calls": [{}]}]}, "messages"),
        ({"messages": [HELLO, CALLED, {**RESULT, "name": None}]}, "messages"),
    ],
)
def test_a_wrong_field_of_the_old_form_is_named(body: dict[str, Any], field: str) -> None:
    answer = asked("Hi.", **body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == field
    assert answer.json["error"]["message"].endswith(".")
