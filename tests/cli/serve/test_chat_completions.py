"""Chat completions: whole and streamed, with all that clients read off them."""

from collections.abc import Sequence
from typing import Any

import pytest

from cli.serve.chat_completions import ChatCompletions
from cli.serve.faults import RequestFault
from dsv4_mlx.chat.events import BudgetReached, Done, LoopNoticed, Usage
from dsv4_mlx.scripted.script import ScriptedReply
from dsv4_mlx.serving.request import ToolChoice
from tests.cli.serve.driven import context
from tests.cli.serve.served_app import Answer, Client, Served, asked, script

SEARCH = {"type": "web_search"}
CUSTOM = {"type": "custom", "custom": {"name": "patch"}}
LISTS = {"id": "call_1", "type": "function", "function": {"name": "ls", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [LISTS]}

THINKS = "<think>A sum.</think>Four."
CALL = ScriptedReply("Let me look.", ({"name": "ls", "arguments": {"path": "."}},))
LS = {
    "type": "function",
    "function": {
        "name": "ls",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}


def deltas(answer: Answer) -> list[dict[str, Any]]:
    return [chunk["choices"][0]["delta"] for chunk in answer.chunks if chunk["choices"]]


def joined(answer: Answer, field: str) -> str:
    return "".join(delta.get(field) or "" for delta in deltas(answer))


def test_an_answer_is_one_body() -> None:
    answer = asked(THINKS, reasoning_effort="high")
    assert answer.status == 200 and answer.headers["content-type"] == "application/json"
    (choice,) = answer.json["choices"]
    assert choice["finish_reason"] == "stop" and choice["index"] == 0
    assert choice["message"] == {
        "role": "assistant", "content": "Four.", "refusal": None, "reasoning_content": "A sum.",
    }  # fmt: skip
    usage = answer.json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3
    assert (answer.json["object"], answer.json["model"]) == ("chat.completion", "scripted")


def test_a_stream_says_the_role_first_and_ends_with_done() -> None:
    answer = asked(THINKS, stream=True, reasoning_effort="low")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert deltas(answer)[0] == {"role": "assistant", "content": ""}
    assert joined(answer, "reasoning_content") == "A sum." and joined(answer, "content") == "Four."
    assert answer.frames[-1] == "data: [DONE]"
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in answer.chunks]
    assert finishes[-1] == "stop" and set(finishes[:-1]) == {None}
    assert len({chunk["id"] for chunk in answer.chunks}) == 1
    assert all("usage" not in chunk for chunk in answer.chunks)


def test_what_was_used_comes_last_where_it_is_asked_for() -> None:
    answer = asked("Hi.", stream=True, stream_options={"include_usage": True})
    *before, last = answer.chunks
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None for chunk in before)


def test_a_call_is_opened_once_with_its_name_and_then_written() -> None:
    answer = asked(CALL, stream=True, tools=[LS])
    calls = [delta["tool_calls"][0] for delta in deltas(answer) if "tool_calls" in delta]
    assert calls[0]["id"] == "call_0" and calls[0]["function"] == {"name": "ls", "arguments": ""}
    assert all(call["index"] == 0 for call in calls)
    assert all(set(call["function"]) == {"arguments"} for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == '{"path": "."}'
    assert answer.chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_whole_answer_has_its_calls() -> None:
    (choice,) = asked(CALL, tools=[LS]).json["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    function = {"name": "ls", "arguments": '{"path": "."}'}
    call = {"id": "call_0", "type": "function", "function": function}
    assert choice["message"]["tool_calls"] == [call]


def test_the_next_turn_of_an_agent_reads_only_what_is_new() -> None:
    def turn(client: Client, messages: list[Any]) -> Any:
        body = {"messages": messages, "tools": [LS], "reasoning_effort": "high"}
        return client.post("/v1/chat/completions", body)

    async def work(client: Client) -> tuple[Answer, Answer]:
        messages: list[Any] = [{"role": "user", "content": "What is here? " * 50}]
        first = await turn(client, messages)
        said = first.json["choices"][0]["message"]
        # As a client does that keeps no reasoning and writes arguments anew.
        del said["reasoning_content"]
        said["tool_calls"][0]["function"]["arguments"] = '{"path":"."}'
        result = {"role": "tool", "tool_call_id": "call_0", "content": "a.py"}
        return first, await turn(client, [*messages, said, result])

    thinks = ScriptedReply("<think>Look.</think>Let me look.", CALL.tool_calls)
    first, second = Served(script(thinks, "One file.")).run(work)
    used, timings = second.json["usage"], second.json["timings"]
    assert timings["cached_n"] == used["prompt_tokens_details"]["cached_tokens"]
    assert timings["cached_n"] + timings["prompt_n"] == used["prompt_tokens"]
    assert timings["predicted_n"] == used["completion_tokens"]
    assert timings["prompt_ms"] >= 0 and timings["predicted_ms"] >= 0
    before = first.json["usage"]["total_tokens"]
    assert used["prompt_tokens_details"]["cached_tokens"] >= before - 1
    assert used["prompt_tokens"] - before <= 32  # the result and what opens a reply
    assert second.json["choices"][0]["message"]["content"] == "One file."


def test_several_answers_come_with_their_numbers() -> None:
    body = {"n": 3, "stream": True, "stream_options": {"include_usage": True}}
    answer = asked("Hi.", **body)
    texts = {0: "", 1: "", 2: ""}
    for chunk in answer.chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert set(texts.values()) == {"Hi."}
    assert answer.chunks[-1]["usage"]["completion_tokens"] == 9
    whole = asked("Hi.", n=3).json["choices"]
    assert [choice["index"] for choice in whole] == [0, 1, 2]


@pytest.mark.parametrize("streams", [False, True])
def test_log_probabilities_belong_to_the_text_of_the_answer(streams: bool) -> None:
    body = {"reasoning_effort": "low", "logprobs": True, "stream": streams}
    answer = asked("<think>A sum.</think>Hi there.", **body)
    chunks = answer.chunks if streams else [answer.json]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    entries = [entry for one in told if one for entry in one["content"]]
    assert b"".join(bytes(entry["bytes"]) for entry in entries) == b"Hi there."
    assert all(entry["logprob"] <= 0 and entry["top_logprobs"] == [] for entry in entries)


def test_a_stop_text_ends_the_answer_before_it() -> None:
    (choice,) = asked("One two three four.", stop=["three"]).json["choices"]
    assert choice["message"]["content"] == "One two "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "three")


def test_what_a_finish_reason_cannot_say_is_a_comment() -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    writer = ChatCompletions().read(body, context()).writer
    (budget,) = writer.event(0, BudgetReached("soft", 1200))
    (loop,) = writer.event(0, LoopNoticed("answer", 3, 20))
    comment, chunk = writer.event(0, Done("loop", Usage(9, 0, 40)))
    assert budget.encode() == b": soft end of reasoning after 1200 tokens\n\n"
    assert loop.encode() == b": the answer runs in a loop: 3 tokens 20 times\n\n"
    assert comment.encode() == b": ended as a loop\n\n" and '"finish_reason":"stop"' in chunk.data
    assert len(writer.event(0, Done("stop", Usage(9, 0, 40)))) == 1


def test_a_bound_on_tokens_is_told() -> None:
    answer = asked("One two three four.", max_tokens=100, max_completion_tokens=2)
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == 2
    answer = asked("One two three four.", max_tokens=-1)
    assert answer.json["choices"][0]["finish_reason"] == "stop"


def test_an_image_of_a_tool_is_told_in_words_and_a_persons_is_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    text = {"type": "text", "text": "two files"}

    def read(role: str) -> Any:
        told = {"role": role, "tool_call_id": "call_1", "content": [text, image]}
        body = {"messages": [{"role": "user", "content": "Hi"}, CALLING, told]}
        return ChatCompletions().read(body, context()).request.messages[-1]["content"]

    assert read("tool") == [
        text,
        {"type": "text", "text": "[image_url: this model reads text alone]"},
    ]
    with pytest.raises(RequestFault, match="image_url"):
        read("user")


@pytest.mark.parametrize(
    ("fields", "level", "budget"),
    [
        ({}, "low", None),
        ({"thinking": {"type": "enabled", "budget_tokens": 4000}}, "low", 4000),
        ({"reasoning": {"effort": "high", "max_tokens": 300}}, "high", 300),
        ({"reasoning": {"max_tokens": 0}}, "none", 0),
        ({"reasoning": "high"}, "high", None),
    ],
)
def test_reasoning_is_bounded_in_either_way(fields: Any, level: str, budget: int | None) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    settings = ChatCompletions().read(body, context()).request.settings
    assert (settings.thinking.level, settings.budget) == (level, budget)


def test_tools_that_are_no_functions_are_left_out_and_named() -> None:
    def read(choice: Any, *tools: Any) -> Any:
        body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [SEARCH, *tools]}
        return ChatCompletions().read({**body, "tool_choice": choice}, context())

    for choice in ("auto", "required", SEARCH):
        found = read(choice)
        assert found.passed_over == ("web_search",) and found.request.settings.tools == ()
        assert found.request.tool_choice.kind == "auto"
    listing = {"type": "function", "function": {"name": "ls"}}
    assert read("required", listing).request.tool_choice.kind == "required"
    assert read(listing, listing).request.tool_choice.name == "ls"


def allowing(mode: str, *names: str, more: Sequence[object] = ()) -> dict[str, Any]:
    """The choice by which some functions may be called."""
    tools = [*({"type": "function", "function": {"name": name}} for name in names), *more]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (allowing("auto", "rm", "ls"), ToolChoice(allowed=("ls", "rm"))),
        (allowing("required", "rm"), ToolChoice("required", allowed=("rm",))),
        (allowing("required"), ToolChoice(allowed=())),
        (allowing("auto", "ls", more=[CUSTOM]), ToolChoice(allowed=("ls",))),
        (allowing("required", more=[CUSTOM]), ToolChoice(allowed=())),
        (allowing("required", "mv"), "tool_choice.allowed_tools.tools"),
        (allowing("never", "ls"), "tool_choice.allowed_tools.mode"),
        ({"type": "allowed_tools", "allowed_tools": []}, "tool_choice.allowed_tools"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools.tools"),
    ],
)
def test_some_of_the_tools_may_be_called_and_all_are_in_the_prompt(
    choice: Any, expected: ToolChoice | str
) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("ls", "rm")]
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    body["tool_choice"] = choice
    if isinstance(expected, str):
        with pytest.raises(RequestFault) as raised:
            ChatCompletions().read(body, context())
        assert raised.value.fault.field == expected
    else:
        request = ChatCompletions().read(body, context()).request
        assert (request.tool_choice, len(request.settings.tools)) == (expected, 2)


def test_fields_that_nobody_knows_are_passed_over() -> None:
    body = {"store": False, "metadata": {}, "presence_penalty": 0, "user": "me", "x": [1]}
    assert asked("Hi.", **body).status == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 1}, "stream_options"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tool_choice": {"function": {"name": "rm"}}}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": -1}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "perhaps"}}, "thinking.type"),
        ({"reasoning": {"max_tokens": "many"}}, "reasoning.max_tokens"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"chat_template_kwargs": {"thinking": "perhaps"}}, "chat_template_kwargs.thinking"),
        ({"chat_template_kwargs": {"drop_thinking": 1}}, "chat_template_kwargs.drop_thinking"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"frequency_penalty": 9}, "frequency_penalty"),
        ({"presence_penalty": "much"}, "presence_penalty"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages"),
        ({"messages": [5]}, "messages"),
        ({"model": 7}, "model"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], field: str) -> None:
    answer = asked("Hi.", **body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == field
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_an_image_is_refused_in_a_sentence() -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]
    answer = asked("Hi.", messages=[{"role": "user", "content": parts}])
    assert answer.status == 400
    assert "parts of type 'text' only" in answer.json["error"]["message"]


def test_another_model_is_not_found_and_aliases_are() -> None:
    async def work(client: Client) -> list[Answer]:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        names = ("scripted", "claude-x", "gpt-4")
        return [await client.post("/v1/chat/completions", {**body, "model": n}) for n in names]

    first, second, third = Served(script("Hi."), aliases=("claude-x",)).run(work)
    assert (first.status, second.status, third.status) == (200, 200, 404)
    error = third.json["error"]
    assert error["code"] == "model_not_found" and "scripted, claude-x" in error["message"]


def test_a_prompt_beyond_the_context_says_both_numbers() -> None:
    message = {"role": "user", "content": "word " * 200}
    body = {"messages": [message], "stream": True}
    served = Served(script("Hi.", context=64))
    answer = served.run(lambda client: client.post("/v1/chat/completions", body))
    assert answer.status == 400
    assert answer.json["error"]["code"] == "context_length_exceeded"
    assert "64" in answer.json["error"]["message"]


@pytest.mark.parametrize("streams", [False, True])
def test_a_failing_model_is_an_error_of_the_dialect(streams: bool) -> None:
    answer = asked(ScriptedReply("Hi there.", crash="out of memory"), stream=streams)
    if streams:
        assert answer.chunks[-1]["error"]["type"] == "server_error"
        assert answer.frames[-1] != "data: [DONE]"
    else:
        assert answer.status == 500
        assert "out of memory" in answer.json["error"]["message"]
