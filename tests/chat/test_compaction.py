"""Compacting: whatever a conversation holds and wherever it ends, nothing of it is lost."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.compaction import KEPT_TURNS, Compacted, Compaction, stands_for
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import BackendError, UsageError
from dsv4_mlx.scripted.engine import NANO, scripted_engine
from dsv4_mlx.scripted.script import Script, ScriptedReply

TOOLS = [{"name": "look", "description": "Looks.", "parameters": {"type": "object"}}]
SUMMARY = ScriptedReply("<think>What was it?</think>They looked at the sky.")


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


def talk(
    turns: list[Turn],
    reply: ScriptedReply = SUMMARY,
    *,
    level: str = "none",
    context: int = 1 << 20,
    **options,
) -> Conversation:
    """A conversation after `turns` in which every answer is `reply`."""
    engine = scripted_engine(Script(((reply,),), context=context, chunk=64), tokenizer())
    thinking = Thinking("chat") if level == "none" else Thinking("thinking", level)
    settings = AnswerSettings(thinking, sampling=Sampling(temperature=0.0), **options)
    return Conversation(engine, tokenizer(), settings, turns=turns)


def compacted(conversation: Conversation, *, stop_after: int | None = None) -> Compacted:
    compaction = Compaction(conversation.fork(), title="The sky", hint="colours")
    seen = 0
    while compaction.is_unfinished:
        for _ in compaction.step():
            seen += 1
            if seen == stop_after:
                compaction.conversation.cancel()
    return compaction.result()


def turn(asked: str, said: str = "Yes.", *, thought: str = "", calls: int = 0) -> Turn:
    """A turn whose answer follows so many rounds of tool calls."""
    messages = [{"role": "user", "content": asked}]
    for number in range(calls):
        function = {"name": "look", "arguments": json.dumps({"at": f"{asked[:9]} {number}"})}
        call = {"id": f"call_{number + 1}", "type": "function", "function": function}
        messages.append(_assistant("", thought, [call]))
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})
    return Turn((*messages, _assistant(said, thought, [])))


def _assistant(content: str, thought: str, calls: list[dict]) -> dict:
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": thought,
        "tool_calls": calls,
    }


TEXTS = st.sampled_from(
    ["Hi.", "why is the sky blue?", "word " * 60, "你好 " * 40, "</think>x", ""]
)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    one = turn(
        draw(TEXTS), draw(TEXTS), thought=draw(TEXTS), calls=draw(st.sampled_from([0, 0, 1, 3]))
    )
    ends = draw(st.sampled_from(["whole", "whole", "whole", "waiting", "unanswered"]))
    if ends == "waiting" and len(one.messages) > 2:
        return Turn(one.messages[:2])  # stopped before its tool ran
    return Turn(one.messages[:-1]) if ends == "unanswered" and len(one.messages) > 2 else one


@settings(max_examples=60)
@given(
    turns=st.lists(turns(), min_size=1, max_size=8),
    level=st.sampled_from(["none", "high"]),
    tools=st.booleans(),
    context=st.sampled_from([1_024, 2_048, 4_096]),
    stop_after=st.sampled_from([None] * 9 + [1, 3, 12]),
    reply=st.sampled_from(
        [
            *(SUMMARY, SUMMARY, SUMMARY, SUMMARY),
            *(ScriptedReply("A summary."), ScriptedReply("A summary.")),
            ScriptedReply("<think>hm</think>"),
            ScriptedReply("<think>no end", repeat=600),
            ScriptedReply("no end ", repeat=600),
            ScriptedReply("Half a", error="The engine failed."),
            ScriptedReply("Look.", tool_calls=({"name": "look", "arguments": {"at": "it"}},)),
        ]
    ),
)
def test_nothing_is_lost(
    turns: list[Turn],
    level: str,
    tools: bool,
    context: int,
    stop_after: int | None,
    reply: ScriptedReply,
) -> None:
    conversation = talk(turns, reply, level=level, context=context, tools=TOOLS if tools else ())
    before = conversation.turns
    try:
        result = compacted(conversation, stop_after=stop_after)
    except (UsageError, BackendError) as error:
        assert str(error).endswith((".", "failed."))
        result = None
    assert conversation.turns == before == tuple(turns)
    if result is None:
        return
    summary, *last = result.turns
    assert stands_for(summary) == result.summarised == len(turns) - len(last) > 0
    assert last == turns[len(turns) - len(last) :]
    assert len(last) <= KEPT_TURNS
    assert result.after < result.before
    said = summary.messages[-1]
    assert said["content"].strip() in ("They looked at the sky.", "A summary.")
    assert not said["tool_calls"]
    assert not said["reasoning_content"]
    assert Turn.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert conversation.prompt_tokens(result.turns) == result.after
    if result.after < context - 64:
        following = talk(list(result.turns), SUMMARY, level=level, context=context)
        *_, done = following.send("And now?")
        assert done.usage.completion_tokens


def test_a_history_that_does_not_fit_is_summarised_in_steps() -> None:
    history = [turn(f"question {number} " * 40, "words " * 100) for number in range(12)]
    conversation = talk(history, context=1_024)
    assert conversation.prompt_tokens(conversation.turns) > 1_024
    compaction = Compaction(conversation.fork(), title="Long")
    steps = 0
    while compaction.is_unfinished:
        *_, done = compaction.step()
        assert done.usage.prompt_tokens + 256 <= 1_024
        steps += 1
    assert steps > 1
    result = compaction.result()
    assert result.summarised + len(result.turns) - 1 == 12
    assert result.after < 1_024


def test_a_turn_that_alone_does_not_fit_loses_its_middle_in_the_summary_only() -> None:
    long = turn("begin " + "word " * 3_000 + " end", "Yes.")
    conversation = talk([long, turn("b"), turn("c")], context=1_024)
    result = compacted(conversation)
    assert conversation.turns[0] == long
    assert result.summarised == 1
    assert result.after < 1_024


def test_a_summary_is_summarised_again_and_counts_what_it_stood_for() -> None:
    first = compacted(talk([turn("word " * 90) for _ in range(4)]))
    assert first.summarised == 2
    again = compacted(talk([*first.turns, turn("word " * 90), turn("d")]))
    assert again.summarised == 4
    assert again.turns[0].text.startswith("[compacted] The sky\n\n[The first 4 turns ")


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([], "there is nothing to compact yet; send a message first."),
        ([turn("a")], "has 1 turn, and the last one stays as it is."),
        ([turn("a"), turn("b")], "has 2 turns, and the last 2 stay as they are."),
    ],
)
def test_too_little_is_left_alone(history: list[Turn], said: str) -> None:
    with pytest.raises(UsageError, match="nothing to compact") as error:
        compacted(talk(history))
    assert str(error.value).endswith(said)


def test_one_turn_that_fills_the_context_can_be_compacted() -> None:
    result = compacted(talk([turn("word " * 600)], context=1_024))
    assert (result.summarised, len(result.turns)) == (1, 1)


@pytest.mark.parametrize("loops", ["notice", "stop", "off"])
def test_a_summary_that_runs_in_a_loop_is_none(loops: str) -> None:
    history = [turn("word " * 1_500) for _ in range(4)]
    conversation = talk(history, ScriptedReply("no end ", repeat=1_500), loops=loops)
    with pytest.raises(UsageError, match="ran in a loop; nothing was changed"):
        compacted(conversation)


def test_the_summary_is_asked_for_after_what_the_cache_holds() -> None:
    conversation = talk([], ScriptedReply("words " * 30))
    for text in "abcd":
        list(conversation.send(text))
    *_, done = Compaction(conversation.fork(), title="").step()
    assert done.usage.cached_tokens > done.usage.prompt_tokens // 3
