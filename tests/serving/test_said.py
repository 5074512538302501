"""The memory of what was said: what counts as the same, and what is forgotten."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dsv4_mlx.serving.said import SaidMemory, said_before, said_reply, visible_of


def message(content: Any = "", reasoning: Any = "", *calls: tuple[str, str, str]) -> dict[str, Any]:
    functions = [
        {"id": name, "function": {"name": tool, "arguments": arguments}}
        for name, tool, arguments in calls
    ]
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": functions,
    }


def test_calls_are_the_same_whatever_serialised_them() -> None:
    one = visible_of(message("", "", ("1", "f", '{"a": 1.0, "b": [true, "1"]}')))
    assert one == visible_of(message(None, "x", ("2", "f", '{"b":[true,"1"],"a":1}')))
    for other in ('{"a": 1, "b": [1, "1"]}', '{"a": "1", "b": [true, "1"]}', "{", '{"a": 1}'):
        assert visible_of(message("", "", ("1", "f", other))) != one
    assert visible_of(message("ab")) != visible_of(message("a", "", ("", "b", "")))


def test_ids_come_first_then_text_in_its_place() -> None:
    memory = SaidMemory()
    for number, before in enumerate(("q", "r")):
        same = message("Yes.", f"thought {number}", (f"id{number}", "f", "{}"))
        memory.remember("", said_reply(same, (number,), (9,), before))
    found = memory.find("", message("Yes. \r\n", "", ("id0", "f", "{ }")), "r")
    assert found is not None and found.thought == (0,)
    unknown = message("Yes.", None, ("new", "f", "{}"))
    by_text = memory.find("", unknown, "r")
    assert by_text is not None and by_text.thought == (1,)
    assert memory.find("", unknown, "s") is None
    assert memory.find("other", unknown, "r") is None
    assert memory.find("", message("Yes.", " thought 0 ", ("new", "f", "{}")), "s") is not None


def test_what_was_asked_stays_the_same_in_any_order_of_results() -> None:
    results = [{"role": "tool", "content": text} for text in ("a", "b")]
    assert said_before(results) == said_before(results[::-1])
    assert said_before([{"role": "system", "content": "x"}, *results]) == said_before(results)
    assert said_before(results[:1]) != said_before(results)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), max_size=30))
def test_the_oldest_is_forgotten_when_there_is_too_much(said: list[tuple[int, int]]) -> None:
    memory = SaidMemory(most_tokens=10)
    order: list[tuple[int, int]] = []
    for text, tokens in said:
        one = message(str(text), "", (f"id{text} {tokens}", "f", "{}"))
        memory.remember("", said_reply(one, (), (0,) * tokens, ""))
        order = [*(other for other in order if other != (text, tokens)), (text, tokens)]
        while sum(count for _, count in order) > 10:
            order.pop(0)
        assert len(memory) == len(order)
    for text, tokens in said:
        asked = message(str(text), "", (f"id{text} {tokens}", "f", "{}"))
        found = memory.find("", asked, "")
        assert (found is not None and len(found.answer) == tokens) == ((text, tokens) in order) or (
            found is not None and len(found.answer) != tokens
        )
