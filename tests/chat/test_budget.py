"""The reasoning budget: where it closes the reasoning, and that nothing else changes."""

import pytest

from dsv4_mlx.chat.budget import ReasoningBudget
from dsv4_mlx.chat.events import BudgetReached, Done, ReasoningDelta, TextDelta
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import END_THINK
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import UsageError
from tests.chat.talking import CHAT, THINKING, answer, change, talk

LONG = "a b c d e f g h. " * 40


@pytest.mark.parametrize(
    "tail",
    [
        "It is so.",
        "Is it?",
        "so!",
        '"Yes."',
        "(so.)",
        "done) .\n",
        "x = 3\n",
        "3.14. ",
        "好。",
        "**so.**",
    ],
)
def test_natural_ends(tail: str) -> None:
    assert ReasoningBudget(10).due(10, tail) == "soft"


@pytest.mark.parametrize("tail", ["It is", "3.", "so, ", "so:", "(so", "a ", "好", "x = 3"])
def test_places_in_between(tail: str) -> None:
    assert ReasoningBudget(10).due(41, tail) is None
    assert ReasoningBudget(10).due(42, tail) == "hard"


@pytest.mark.parametrize(("budget", "limit"), [(0, 32), (100, 132), (128, 160), (4000, 5000)])
def test_the_hard_limit_is_a_quarter_later_and_at_least_32_tokens(budget: int, limit: int) -> None:
    assert ReasoningBudget(budget).hard_limit == limit


def test_nothing_is_due_before_the_budget_or_without_one() -> None:
    assert ReasoningBudget(10).due(9, "So.") is None
    assert ReasoningBudget(None).due(10**6, "So.") is None


def test_a_negative_budget_is_refused(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, "x</think>y", thinking=THINKING, budget=-1)
    with pytest.raises(UsageError, match="0 or more tokens, got -1"):
        list(conversation.send("a"))


def reasoning_tokens(tokenizer: Tokenizer, events: list) -> int:
    return len(tokenizer.encode("".join(e.text for e in events if isinstance(e, ReasoningDelta))))


def test_reasoning_ends_at_the_first_natural_end_after_the_budget(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, LONG, thinking=THINKING, budget=25, max_tokens=400)
    events, done = answer(conversation, "go")
    thought, reached, *_ = events
    assert isinstance(thought, ReasoningDelta) and thought.text.endswith("h.")
    assert reached == BudgetReached("soft", reasoning_tokens(tokenizer, events))
    assert 25 <= reached.tokens < 25 + 18
    assert done.usage.reasoning_tokens == reached.tokens
    assert "</think>" not in conversation.messages[-1]["content"]


def test_reasoning_without_an_end_is_closed_hard(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, "word " * 300, thinking=THINKING, budget=40, max_tokens=400)
    events, done = answer(conversation, "go")
    assert BudgetReached("hard", 72) in events
    assert reasoning_tokens(tokenizer, events) == done.usage.reasoning_tokens == 72


def test_a_budget_of_nothing_is_no_thinking(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, LONG, thinking=THINKING, budget=0, max_tokens=20)
    events, done = answer(conversation, "go")
    assert all(isinstance(event, TextDelta) for event in events)
    assert (done.usage.reasoning_tokens, done.usage.completion_tokens) == (0, 20)
    unthinking = talk(tokenizer, LONG, thinking=CHAT, max_tokens=20)
    assert answer(unthinking, "go")[0] == events
    timelines = [one._model_side._session.tokens for one in (conversation, unthinking)]
    assert timelines[0] == timelines[1]
    change(conversation, budget=None)
    assert any(isinstance(event, ReasoningDelta) for event in answer(conversation, "on")[0])


def test_reasoning_that_ends_by_itself_is_left_alone(tokenizer: Tokenizer) -> None:
    reply = "Let me see.</think>Four."
    thought = len(tokenizer.encode("Let me see."))
    plain, _ = answer(talk(tokenizer, reply, thinking=THINKING), "2+2?")
    bounded, done = answer(talk(tokenizer, reply, thinking=THINKING, budget=thought + 1), "2+2?")
    assert bounded == plain
    assert done.usage.reasoning_tokens == thought


def test_an_answer_is_no_reasoning(tokenizer: Tokenizer) -> None:
    events, done = answer(talk(tokenizer, LONG, thinking=CHAT, budget=5, max_tokens=50), "go")
    assert not any(isinstance(event, BudgetReached) for event in events)
    assert done.usage.reasoning_tokens == 0


def test_unasked_reasoning_has_the_budget_too(tokenizer: Tokenizer) -> None:
    reply = "<think>" + LONG
    events, _ = answer(talk(tokenizer, reply, thinking=CHAT, budget=5, max_tokens=80), "go")
    assert any(isinstance(event, BudgetReached) for event in events)


def test_the_closing_token_stands_in_the_timeline(tokenizer: Tokenizer) -> None:
    """The next prompt begins with the very tokens, so nothing but the thought is read again."""
    conversation = talk(tokenizer, LONG, thinking=THINKING, budget=25, max_tokens=60)
    _, first = answer(conversation, "go")
    timeline = conversation._model_side._session.tokens
    end = first.usage.prompt_tokens + first.usage.reasoning_tokens
    assert timeline[end] == tokenizer.control_ids[END_THINK]
    assert timeline.count(tokenizer.control_ids[END_THINK]) == 1
    assert len(timeline) == first.usage.prompt_tokens + first.usage.completion_tokens
    _, second = answer(conversation, "on")
    assert second.usage.cached_tokens == first.usage.prompt_tokens - 1


def test_a_seed_repeats_with_a_budget(tokenizer: Tokenizer) -> None:
    def said(seed: int) -> list:
        conversation = talk(
            tokenizer, "x", thinking=THINKING, budget=4, max_tokens=60,
            sampling=Sampling(1.0, 1.0, seed),
        )  # fmt: skip
        conversation._model_side._engine.model.next_token = None
        return answer(conversation, "go")[0]

    assert said(5) == said(5) != said(6)
    assert any(isinstance(event, BudgetReached) for event in said(5))


def test_a_cancelled_answer_reaches_no_budget(tokenizer: Tokenizer) -> None:
    conversation = talk(tokenizer, LONG, thinking=THINKING, budget=25)
    seen = []
    for event in conversation.send("go"):
        if isinstance(event, ReasoningDelta) and not seen:
            conversation.cancel()
        if isinstance(event, (ReasoningDelta, BudgetReached, Done)):
            seen.append(event)
    assert seen[-1].finish_reason == "cancelled"
    assert not any(isinstance(event, BudgetReached) for event in seen)
