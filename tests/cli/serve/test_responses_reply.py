"""Answers as OpenAI's responses: what a client hears, and what it gets whole."""

from typing import Any

import pytest

from cli.serve.dialect import Heard
from cli.serve.faults import Fault
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.sealing import Seals
from dsv4_mlx.scripted.script import ScriptedReply
from tests.cli.serve.driven import Answered, Server, context, data, script

SEALS = Seals.for_now()
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}}
PATCH = {"type": "custom", "name": "patch"}
NOTES = {"type": "namespace", "name": "mcp__notes", "tools": [{**LOOK, "name": "find"}]}
CALLS = (
    {"name": "look", "arguments": {"at": "a"}},
    {"name": "patch", "arguments": {"input": 'say("hi")\n'}},
    {"name": "mcp__notes__find", "arguments": {}},
)
FULL = ScriptedReply("<think>I think. </think>Let me look.", CALLS)
TOOLS = [LOOK, PATCH, NOTES]


def server(*replies: Any) -> Server:
    return Server(ResponsesDialect(SEALS, KeptResponses()), script(*replies))


def ask(reply: Any, **fields: Any) -> Answered:
    return server(reply).ask({"model": "nano", "input": "Hi", **fields})


def items(answered: Answered) -> list[Any]:
    return [event["item"] for event in answered.of("response.output_item.done")]


def test_events_are_numbered_from_zero_and_end_with_the_response() -> None:
    answered = ask(FULL, tools=TOOLS)
    numbers = [event["sequence_number"] for event in answered.events]
    assert numbers == list(range(len(numbers)))
    assert answered.kinds[:2] == ["response.created", "response.in_progress"]
    assert answered.kinds[-1] == "response.completed"
    assert answered.events[-1]["response"] == answered.whole


def test_every_item_is_added_and_done_and_in_the_output() -> None:
    answered = ask(FULL, tools=TOOLS)
    added = [event["item"]["id"] for event in answered.of("response.output_item.added")]
    assert added == [item["id"] for item in items(answered)]
    assert answered.whole["output"] == items(answered)
    kinds = [item["type"] for item in items(answered)]
    calls = ["function_call", "custom_tool_call", "function_call"]
    assert kinds == ["reasoning", "message", *calls]
    assert {item["status"] for item in items(answered)} == {"completed"}


def test_deltas_join_to_what_is_done() -> None:
    answered = ask(FULL, tools=TOOLS)
    for name, field in (
        ("reasoning_text", "text"),
        ("output_text", "text"),
        ("function_call_arguments", "arguments"),
        ("custom_tool_call_input", "input"),
    ):
        for done in answered.of(f"response.{name}.done"):
            deltas = [
                event["delta"]
                for event in answered.of(f"response.{name}.delta")
                if event["item_id"] == done["item_id"]
            ]
            assert "".join(deltas) == done[field]


def test_calls_are_told_in_the_words_of_the_client() -> None:
    look, patch, find = items(ask(FULL, tools=TOOLS))[2:]
    assert (look["name"], look["arguments"]) == ("look", '{"at": "a"}')
    assert (patch["name"], patch["input"]) == ("patch", 'say("hi")\n')
    assert (find["name"], find["namespace"]) == ("find", "mcp__notes")
    assert len({one["call_id"] for one in (look, patch, find)}) == 3


@pytest.mark.parametrize(("asked", "place"), [(None, "content"), ("auto", "summary")])
def test_reasoning_is_a_summary_where_one_is_asked_for(asked: str | None, place: str) -> None:
    answered = ask(FULL, tools=TOOLS, reasoning={"summary": asked})
    reasoning = items(answered)[0]
    other = "summary" if place == "content" else "content"
    assert reasoning[place][0]["text"] == "I think. " and reasoning[other] == []
    assert "encrypted_content" not in reasoning
    is_summary = "response.reasoning_summary_text.delta" in answered.kinds
    assert is_summary == (place == "summary")


def test_reasoning_is_sealed_where_that_is_asked_for() -> None:
    answered = ask(FULL, tools=TOOLS, include=["reasoning.encrypted_content"])
    sealed = items(answered)[0]["encrypted_content"]
    assert SEALS.opened("somebody", sealed) == "I think. "


def test_a_reply_that_is_cut_is_incomplete() -> None:
    answered = ask(
        "One two three four five six.", max_output_tokens=3, reasoning={"effort": "none"}
    )
    assert answered.kinds[-1] == "response.incomplete"
    assert answered.whole["status"] == "incomplete"
    assert answered.whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert items(answered)[0]["status"] == "incomplete"


def test_usage_counts_what_was_cached_as_input() -> None:
    here = server("<think>Hm</think>Yes.", "No.")
    asked = {"model": "nano", "input": "A long question. " * 20}
    first = here.ask(asked)
    second = here.ask({**asked, "input": "And?", "previous_response_id": first.whole["id"]})
    done, usage = second.done, second.whole["usage"]
    assert done is not None and done.usage.cached_tokens > 60
    assert usage["input_tokens"] == done.usage.prompt_tokens
    assert usage["input_tokens_details"] == {"cached_tokens": done.usage.cached_tokens}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert first.whole["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def test_who_waits_hears_that_it_is_in_progress_and_where() -> None:
    asked = server().dialect.read({"model": "nano", "input": "Hi"}, context())
    events = data([*asked.writer.begin(), asked.writer.heartbeat(Heard("reading", 3, 9))])
    assert [event["sequence_number"] for event in events] == [0, 1, 2]
    assert events[2]["type"] == "response.in_progress"
    assert events[2]["progress"] == "reading 3/9 tokens"


def test_a_model_that_fails_ends_the_stream_with_why() -> None:
    answered = ask(ScriptedReply("Yes", error="The GPU is gone."))
    assert answered.kinds[-1] == "response.failed"
    response = answered.events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "The GPU is gone."}


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("too_long", 400, "context_length_exceeded"),
        ("memory", 400, "context_length_exceeded"),
        ("busy", 429, "rate_limit_exceeded"),
        ("unknown_model", 404, "model_not_found"),
    ],
)
def test_errors_have_the_codes_that_clients_go_by(kind: Any, status: int, code: str) -> None:
    answer = server().dialect.error(Fault(kind, "So it is."))
    assert (answer.status, answer.body["error"]["code"]) == (status, code)
