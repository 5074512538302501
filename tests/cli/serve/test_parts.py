"""Parts of answers: one is open at a time, and every one that is opened is closed."""

from typing import Any

import pytest

from cli.serve.parts import AnswerParts
from dsv4_mlx.chat.events import Done, FinishReason, ReasoningDelta, TextDelta, Usage
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.serving.events import Begun, CallArguments, CallBegun, ServedEvent

BEGUN = CallBegun("a", "look")
PIECES = [CallArguments("a", '{"at"'), CallArguments("a", ': "b"}')]
CALL = ToolCall("look", '{"at": "b"}', id="a")


def done(reason: FinishReason = "stop") -> Done:
    return Done(reason, Usage(1, 0, 1))


def happened(*events: ServedEvent) -> tuple[list[tuple[str, int, str]], list[Any]]:
    parts = AnswerParts()
    steps = [
        (what, part.number, text) for event in events for what, part, text in parts.take(event)
    ]
    return steps, [(part.kind, part.text, part.is_whole) for part in parts.all]


def test_parts_follow_one_another() -> None:
    events = (Begun(3, 0), ReasoningDelta("Hm"), TextDelta("Yes"), TextDelta("."), done())
    steps, parts = happened(*events)
    assert steps == [
        ("opened", 0, ""),
        ("grown", 0, "Hm"),
        ("closed", 0, ""),
        ("opened", 1, ""),
        ("grown", 1, "Yes"),
        ("grown", 1, "."),
        ("closed", 1, ""),
    ]
    assert parts == [("reasoning", "Hm", True), ("text", "Yes.", True)]


def test_a_call_is_the_same_part_whether_it_comes_in_pieces_or_whole() -> None:
    pieces, same = happened(BEGUN, *PIECES, CALL, done())
    whole, parts = happened(CALL, done())
    assert same == parts == [("call", CALL.arguments, True)]
    assert [step for step in pieces if step[0] != "grown"] == [
        step for step in whole if step[0] != "grown"
    ]


def test_calls_that_follow_one_another_are_parts_of_their_own() -> None:
    other = ToolCall("look", "{}", id="b")
    _, parts = happened(BEGUN, *PIECES, CALL, other, TextDelta("So."), done())
    assert parts == [("call", CALL.arguments, True), ("call", "{}", True), ("text", "So.", True)]


@pytest.mark.parametrize("reason", ["stop", "length", "cancelled"])
def test_a_call_that_the_answer_ends_in_is_closed_and_not_whole(reason: FinishReason) -> None:
    steps, parts = happened(TextDelta("I look."), BEGUN, PIECES[0], done(reason))
    assert steps[-1] == ("closed", 1, "")
    assert parts == [("text", "I look.", True), ("call", '{"at"', False)]


def test_text_that_is_cut_is_not_whole() -> None:
    assert happened(TextDelta("I"), done("length"))[1] == [("text", "I", False)]
