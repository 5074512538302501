"""The settings of sampling reach the draw of every token of a conversation."""

import pytest

from dsv4_mlx.chat.events import Done, TextDelta
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import UsageError
from tests.chat.talking import answer, talk

REPLY = "one two three four five six seven eight nine ten"


def said(tokenizer: Tokenizer, sampling: Sampling, *questions: str) -> list[str]:
    conversation = talk(tokenizer, REPLY, sampling=sampling, max_tokens=60)
    answers = []
    for question in questions or ("count",):
        events, done = answer(conversation, question)
        assert isinstance(done, Done)
        answers.append("".join(event.text for event in events if isinstance(event, TextDelta)))
    return answers


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(40.0, seed=1, top_k=1),
        Sampling(40.0, seed=1, min_p=1.0),
        Sampling(40.0, seed=1, top_p=1e-46),
        Sampling(0.0, repetition_penalty=1.2),
    ],
)
def test_each_filter_keeps_the_likeliest(tokenizer: Tokenizer, sampling: Sampling) -> None:
    assert said(tokenizer, sampling) == [REPLY]


def test_without_a_filter_heat_draws_something_else(tokenizer: Tokenizer) -> None:
    assert said(tokenizer, Sampling(40.0, seed=1)) != [REPLY]


def test_a_high_penalty_says_nothing_twice_and_nothing_of_the_question(
    tokenizer: Tokenizer,
) -> None:
    conversation = talk(
        tokenizer, REPLY, sampling=Sampling(0.0, repetition_penalty=1e6), max_tokens=40
    )
    _, done = answer(conversation, f"count to {REPLY}")
    timeline = conversation._model_side._session.tokens
    prompt, reply = timeline[: done.usage.prompt_tokens], timeline[done.usage.prompt_tokens :]
    assert len(set(reply)) == len(reply) > 10
    assert set(prompt).isdisjoint(reply)


def test_undo_takes_what_was_counted_back(tokenizer: Tokenizer) -> None:
    conversation = talk(
        tokenizer, REPLY, sampling=Sampling(0.0, repetition_penalty=1e6), max_tokens=24
    )
    first, _ = answer(conversation, "count")
    again, _ = answer(conversation, "count")
    conversation.undo()
    conversation.undo()
    once_more, _ = answer(conversation, "count")
    assert first == once_more != again


def test_a_setting_out_of_range_leaves_the_dialogue(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="top_k must be a whole number from 0 on"):
        Sampling(top_k=-3)
