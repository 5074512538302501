"""Turns as data: what is written is read back, and nothing else is taken for a turn."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.turns import Turn
from tests.chat.talking import THINKING, answer, read_by, talk

USER = {"role": "user", "content": "Hi"}
SAID = {"role": "assistant", "content": "Hello", "reasoning_content": "Hm.", "tool_calls": []}


def test_a_turn_survives_json(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, "Hm.</think>Größe: 1.", thinking=THINKING)
    answer(conversation, "Wie groß?")
    (turn,) = conversation.turns
    assert Turn.from_json(json.loads(json.dumps(turn.to_json()))) == turn
    assert tokenizer.decode(turn.answers[0]) == "Größe: 1."
    assert tokenizer.decode(turn.thoughts[0]) == "Hm."


def test_turns_without_tokens_are_the_same_prompt(tokenizer: Tokenizer) -> None:
    """As they come from a file of messages alone, or from another model."""
    conversation = talk(tokenizer, "One.", "Two.", "Three.")
    answer(conversation, "a")
    answer(conversation, "b")
    other = talk(
        tokenizer, "One.", "Two.", "Three.",
        turns=[turn.without_tokens() for turn in conversation.turns],
    )  # fmt: skip
    read, done = read_by(other, other.send("c"))
    assert read == done.usage.prompt_tokens
    assert read_by(conversation, conversation.send("c"))[1].usage.prompt_tokens == read
    assert other.messages == conversation.messages


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[]"}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "must be a JSON object, got a NoneType"),
        ([], "must be a JSON object"),
        ({}, "must be a list of JSON objects"),
        ({"messages": [1]}, "must be a list of JSON objects"),
        ({"messages": []}, "begin with a user message"),
        ({"messages": [SAID]}, "begin with a user message"),
        ({"messages": [{"role": "user"}]}, "whose content is text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "whose content is text"),
        ({"messages": [USER, USER]}, "goes user, assistant, tool"),
        ({"messages": [USER, SAID, SAID]}, "goes user, assistant, tool"),
        ({"messages": [USER, {"role": ["x"]}]}, "goes user, assistant, tool"),
        ({"messages": [USER, SAID | {"content": 3}]}, "content must be a string"),
        ({"messages": [USER, SAID | {"tool_calls": [CALL]}]}, "must be a JSON object"),
        ({"messages": [USER, SAID], "answers": [[1], [2]]}, "at most one for each of its 1"),
        ({"messages": [USER, SAID], "answers": [[-1]]}, "lists of token ids"),
        ({"messages": [USER, SAID], "answers": [[True]]}, "lists of token ids"),
        ({"messages": [USER, SAID], "answers": [[1.0]]}, "lists of token ids"),
        ({"messages": [USER, SAID], "thoughts": "abc"}, "lists of token ids"),
        ({"messages": [USER, SAID], "thoughts": [["a"]]}, "lists of token ids"),
    ],
)
def test_damaged_turns_are_refused_in_a_sentence(data: object, words: str) -> None:
    with pytest.raises(ChatError, match=words) as caught:
        Turn.from_json(data)
    assert "\n" not in str(caught.value)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 600) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "tool_calls", "function", "name", "arguments", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_no_data_breaks_the_reader(message: Any, answers: Any, thoughts: Any) -> None:
    data = {"messages": [USER, message], "answers": answers, "thoughts": thoughts}
    for candidate in (message, data, data | {"messages": message}):
        try:
            turn = Turn.from_json(candidate)
        except ChatError:
            continue
        assert Turn.from_json(turn.to_json()) == turn
