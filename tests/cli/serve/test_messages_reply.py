"""Answers as Anthropic's messages: what a client hears, and what it gets whole."""

from typing import Any

import pytest

from cli.serve.dialect import Heard
from cli.serve.faults import Fault
from cli.serve.messages import MessagesDialect
from cli.serve.sealing import Seals
from dsv4_mlx.chat.events import ReasoningDelta
from dsv4_mlx.scripted.script import ScriptedReply
from dsv4_mlx.serving.events import Begun
from tests.cli.serve.agents import streamed_blocks
from tests.cli.serve.driven import Answered, Server, context, data, script

SEALS = Seals.for_now()
THINKS = {"thinking": {"type": "adaptive"}}
TOOL = {"name": "look", "input_schema": {"type": "object"}}
CALLS = tuple({"name": "look", "arguments": {"at": at}} for at in ("a", "b"))
FULL = ScriptedReply("<think>I think. </think>Let me look.", CALLS)


def server(*replies: Any) -> Server:
    return Server(MessagesDialect(SEALS), script(*replies))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "nano", "messages": [{"role": "user", "content": "Hi"}], **fields}


def ask(reply: Any, **fields: Any) -> Answered:
    return server(reply).ask(body(**fields))


def test_a_stream_has_every_block_between_its_start_and_its_stop() -> None:
    answered = ask(FULL, tools=[TOOL], **THINKS)
    kinds = [kind for kind in answered.kinds if kind != "content_block_delta"]
    blocks = ["content_block_start", "content_block_stop"] * 4
    assert kinds == ["message_start", "ping", *blocks, "message_delta", "message_stop"]
    starts = [event["content_block"] for event in answered.of("content_block_start")]
    assert [block["type"] for block in starts] == ["thinking", "text", "tool_use", "tool_use"]
    assert [event["index"] for event in answered.of("content_block_stop")] == [0, 1, 2, 3]


def test_a_stream_says_what_the_whole_message_says() -> None:
    answered = ask(FULL, tools=[TOOL], **THINKS)
    start = answered.events[0]["message"]
    end = answered.of("message_delta")[0]
    streamed = {**start, **end["delta"], "usage": end["usage"]}
    assert {**streamed, "content": streamed_blocks(answered.events)} == answered.whole
    assert answered.whole["stop_reason"] == "tool_use"


def test_the_signature_of_thinking_holds_it() -> None:
    for hidden in (False, True):
        thinking = {"type": "adaptive", **({"display": "omitted"} if hidden else {})}
        block = ask(FULL, tools=[TOOL], thinking=thinking).whole["content"][0]
        assert block["thinking"] == ("" if hidden else "I think. ")
        assert SEALS.opened("somebody", block["signature"]) == "I think. "


def test_hidden_thinking_streams_its_signature_alone() -> None:
    answered = ask(FULL, tools=[TOOL], thinking={"type": "adaptive", "display": "omitted"})
    deltas = [event["delta"]["type"] for event in answered.of("content_block_delta")]
    assert "thinking_delta" not in deltas and deltas.count("signature_delta") == 1


@pytest.mark.parametrize(
    ("reply", "fields", "reason", "sequence"),
    [
        ("Yes.", {}, "end_turn", None),
        ("One two three four five.", {"max_tokens": 2}, "max_tokens", None),
        ("One two END three", {"stop_sequences": ["END"]}, "stop_sequence", "END"),
        (ScriptedReply("", CALLS), {"tools": [TOOL]}, "tool_use", None),
    ],
)
def test_why_an_answer_ended(reply: Any, fields: Any, reason: str, sequence: str | None) -> None:
    answered = ask(reply, **fields)
    assert answered.of("message_delta")[0]["delta"] == {
        "stop_reason": reason,
        "stop_sequence": sequence,
    }
    assert (answered.whole["stop_reason"], answered.whole["stop_sequence"]) == (reason, sequence)


def test_what_was_cached_is_no_input() -> None:
    here = server("Yes.", "No.")
    asked = body(messages=[{"role": "user", "content": "A long question. " * 20}])
    first = here.ask(asked)
    asked["messages"] += [
        {"role": "assistant", "content": first.whole["content"]},
        {"role": "user", "content": "And?"},
    ]
    second = here.ask(asked)
    usage = second.whole["usage"]
    assert second.events[0]["message"]["usage"] == {**usage, "output_tokens": 0}
    assert second.of("message_delta")[0]["usage"] == usage
    assert second.done is not None
    assert usage["cache_read_input_tokens"] == second.done.usage.cached_tokens > 60
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert read == second.done.usage.prompt_tokens
    assert usage["cache_creation_input_tokens"] == 0


def test_an_answer_without_a_word_is_a_message_without_blocks() -> None:
    answered = ask("")
    assert answered.whole["content"] == []
    assert answered.kinds == ["message_start", "ping", "message_delta", "message_stop"]


def test_who_waits_hears_pings_and_errors_are_events() -> None:
    asked = MessagesDialect(SEALS).read(body(), context())
    writer = asked.writer
    assert writer.begin() == []
    waits = data([writer.heartbeat(Heard("waiting")), writer.heartbeat(Heard("reading", 3, 9))])
    assert [ping["type"] for ping in waits] == ["ping", "ping"]
    assert waits[1]["progress"] == "reading 3/9 tokens"
    writer.event(0, Begun(9, 0))
    writer.event(0, ReasoningDelta("Hm"))
    (error,) = data(writer.failed(Fault("failed", "The model failed.")))
    assert error == {
        "type": "error",
        "error": {"type": "api_error", "message": "The model failed."},
    }


def test_a_model_that_fails_ends_the_stream_with_an_error() -> None:
    answered = ask(ScriptedReply("Yes", error="The GPU is gone."))
    assert answered.events[-1]["error"] == {"type": "api_error", "message": "The GPU is gone."}
    assert "message_stop" not in answered.kinds


@pytest.mark.parametrize(
    ("kind", "status", "name"),
    [
        ("too_long", 400, "invalid_request_error"),
        ("memory", 400, "invalid_request_error"),
        ("too_large", 413, "request_too_large"),
        ("busy", 529, "overloaded_error"),
        ("waited", 529, "overloaded_error"),
        ("too_often", 429, "rate_limit_error"),
        ("unauthorized", 401, "authentication_error"),
        ("forbidden", 403, "permission_error"),
        ("not_found", 404, "not_found_error"),
        ("wrong_method", 405, "invalid_request_error"),
        ("failed", 500, "api_error"),
    ],
)
def test_errors_have_the_types_that_clients_go_by(kind: Any, status: int, name: str) -> None:
    answer = MessagesDialect(SEALS).error(Fault(kind, "So it is."))
    assert answer.status == status and answer.body["type"] == "error"
    error = answer.body["error"]
    assert error["type"] == name and error["message"].endswith("So it is.")
    assert error["message"].startswith("prompt is too long: ") == (kind in ("too_long", "memory"))
