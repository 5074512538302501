"""What a trace says of an agent's turns, and when they are complained of."""

from typing import Any

from tests.agents.turns import SPARE, Traced, Turn, complaints, traced

FINISHES = ("tool_calls", "stop")


def lines(number: int, tools: int, state: str = "done", **end: Any) -> list[dict[str, Any]]:
    figures = {"prompt": 100, "cached": 0, "generated": 10, "finish": "stop", "state": state}
    return [
        {"number": number, "path": "/v1/messages", "body": {"tools": [{}] * tools}},
        {"number": number, "end": {**figures, **end}},
    ]


def test_the_conversation_is_what_offers_the_most_tools() -> None:
    title, first, second = lines(1, 0), lines(2, 3), lines(3, 3, prompt=130, cached=110)
    found = traced([title[0], first[0], *second, first[1], title[1]])
    assert found == Traced((Turn(100, 0, 10, "stop"), Turn(130, 110, 10, "stop")), 1, ())


def test_requests_without_an_answer_are_told() -> None:
    open_one = lines(3, 1)[:1]
    found = traced([*lines(1, 1), *lines(2, 1, state="invalid"), *open_one])
    assert len(found.turns) == 1 and found.refused == ("invalid", "open")


def test_turns_that_read_what_is_new_are_not_complained_of() -> None:
    turns = [Turn(100, 0, 10, "tool_calls"), Turn(150, 110 - SPARE, 5, "stop")]
    assert complaints(turns, FINISHES) == []


def test_a_turn_that_reads_more_is_complained_of() -> None:
    turns = [Turn(100, 0, 10, "tool_calls"), Turn(150, 109 - SPARE, 5, "stop")]
    assert complaints(turns, FINISHES) == ["turn 2 read 57 tokens, of which 40 are new"]


def test_a_prompt_that_became_shorter_has_nothing_new() -> None:
    turns = [Turn(100, 0, 10, "tool_calls"), Turn(90, 89 - SPARE, 5, "stop")]
    assert complaints(turns, FINISHES) == ["turn 2 read 17 tokens, of which -20 are new"]


def test_turns_that_end_otherwise_are_complained_of() -> None:
    assert complaints([Turn(100, 0, 10, "stop")], FINISHES) == [
        "turns ended ['stop'], not ['tool_calls', 'stop']"
    ]
