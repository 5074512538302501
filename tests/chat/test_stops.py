"""Stop texts: where an answer ends, what is shown of it, and what the next turn goes on from."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat import ReplyParser, TextDelta, ToolCall, merge_deltas
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, ReasoningDelta, Usage
from dsv4_mlx.chat.messages import ChatError
from dsv4_mlx.chat.reply import Reply
from dsv4_mlx.chat.stops import StopTexts, escaped, unescaped
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import DSML, END_THINK
from dsv4_mlx.engine.generation import Token
from dsv4_mlx.errors import UsageError
from tests.chat.talking import CHAT, THINKING, answer, outcome, talk
from tests.cli.scripted import reply_tokens

SMALL = st.text("ab\nü🙂", min_size=1, max_size=4)
STOPS = st.lists(SMALL, min_size=1, max_size=3)
ANSWERS = st.text("ab\nü🙂 ", max_size=24)


def cut_at(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What is shown of `text`, and the stop text that ends it: by looking everywhere."""
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


@settings(max_examples=200, deadline=None)
@given(ANSWERS, STOPS, st.lists(st.integers(0, 24), max_size=6))
def test_every_split_ends_where_a_search_of_the_whole_ends(text, stops, cuts) -> None:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    found = StopTexts(stops)
    shown = ""
    for start, end in pairwise(places):
        if found.met is None:
            shown += found.add(text[start:end])
            seen = text[:end]
            if found.met is None:  # no more is held back than what may become a stop text
                held = seen[len(shown) :]
                assert seen.startswith(shown)
                assert held == "" or any(stop.startswith(held) for stop in stops)
    assert (shown + found.finish(), found.met) == cut_at(text, stops)


def replied(tokenizer: Tokenizer, ids: list[int], stops: list[str], thinking=CHAT):
    events: list = []
    reply = Reply(tokenizer, thinking, events.append, stop=stops)
    ends = [*((id, None) for id in ids), (tokenizer.eos_id, "stop")]
    reply.write(Token(id, 0.0, finish) for id, finish in ends)
    said = reply.close()
    return merge_deltas(events), said


@settings(max_examples=80, deadline=None)
@given(ANSWERS, STOPS, ANSWERS, st.booleans())
def test_tokens_are_kept_as_far_as_they_are_shown(
    tokenizer: Tokenizer, text, stops, reasoning, thinks
) -> None:
    """The stop text may begin within a token or a character's bytes; in reasoning it is text."""
    ids = tokenizer.encode(text)
    before = [*tokenizer.encode(reasoning), tokenizer.control_ids[END_THINK]] if thinks else []
    events, said = replied(tokenizer, [*before, *ids], stops, THINKING if thinks else CHAT)
    shown, stop = cut_at(text, stops)
    wanted = [ReasoningDelta(reasoning)] if thinks and reasoning else []
    assert events == wanted + ([TextDelta(shown)] if shown else [])
    assert said.message["content"] == shown
    assert tokenizer.decode(said.answer) == shown
    assert tokenizer.decode(said.thought) == (reasoning if thinks else "")
    assert said.stop_text == stop
    assert said.finish_reason == ("stop" if stop is None else "stop_text")
    timeline = [*before, *ids]
    whole = [*said.thought, *before[-1:], *said.answer]
    assert whole[: said.kept] == timeline[: said.kept]
    # What is not kept as generated is less than one token.
    rest = tokenizer.decode(whole[said.kept :])
    border = tokenizer.decode(timeline[said.kept : said.kept + 1])
    assert stop is None or len(rest) < max(1, len(border.replace("\ufffd", "")) + 4)


CALL = (
    f'\n\n<{DSML}tool_calls>\n<{DSML}invoke name="f">\n<{DSML}parameter name="k" string="true">'
    f"v END\n\nw</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>"
)


@pytest.mark.parametrize("stop", ["END", "\n\n", "invoke", "w", "<", ">\n", "f", "｜DSML｜", "\n"])
def test_a_tool_call_holds_no_stop_text(tokenizer: Tokenizer, stop: str) -> None:
    events, said = replied(tokenizer, reply_tokens(tokenizer, "Look" + CALL), [stop])
    assert events[0] == TextDelta("Look")
    assert [json.loads(e.arguments) for e in events if isinstance(e, ToolCall)] == [
        {"k": "v END\n\nw"}
    ]
    assert (said.finish_reason, said.stop_text) == ("tool_calls", None)


def test_a_call_that_was_cut_short_is_shown_whole(tokenizer: Tokenizer) -> None:
    ids = reply_tokens(tokenizer, f'Look<{DSML}invoke name="f">\nEND')
    events, said = replied(tokenizer, ids, ["END"])
    assert events == [TextDelta(f'Look<{DSML}invoke name="f">\nEND')]
    assert said.stop_text is None


def test_no_stop_text_reaches_across_a_call() -> None:
    parser = ReplyParser("chat", stop=["ab"])
    events = parser.feed("a" + CALL.replace("\n\n<", "<", 1) + "b") + parser.finish()
    assert [type(event) for event in events] == [TextDelta, ToolCall, TextDelta]


def test_calls_before_the_stop_are_carried_out(tokenizer: Tokenizer) -> None:
    _, said = replied(tokenizer, reply_tokens(tokenizer, f"Look{CALL} and END it"), ["END"])
    assert (said.finish_reason, said.message["content"]) == ("tool_calls", "Look and ")


def test_a_line_end_that_belongs_to_a_call_waits_for_it() -> None:
    parser = ReplyParser("chat", stop=["\n"])
    assert parser.feed("a\n") == [TextDelta("a")]
    assert parser.stopped is None
    parser.feed("b")
    assert parser.stopped == "\n"


def test_nothing_comes_after_a_stop_text() -> None:
    parser = ReplyParser("chat", stop=["END"])
    assert parser.feed(f"aENDb{CALL}") == [TextDelta("a")]
    assert parser.feed("more") == parser.finish() == []
    assert parser.close()["content"] == "a"


def stopping(tokenizer: Tokenizer, *replies: str, **options) -> Conversation:
    return talk(tokenizer, *replies, stop=["END"], **options)


@pytest.mark.parametrize(("thinking", "before"), [(CHAT, ""), (THINKING, "Hm END.</think>")])
def test_the_next_turn_goes_on_from_what_was_shown(
    tokenizer: Tokenizer, thinking, before: str
) -> None:
    conversation = stopping(
        tokenizer, before + "One two three.END four.", before + "Two.", thinking=thinking
    )
    events, done = answer(conversation, "go")
    assert events[-1] == TextDelta("One two three.")
    assert (done.finish_reason, done.stop_text) == ("stop_text", "END")
    (turn,) = conversation.turns
    ((thought, said),) = turn.said()
    timeline = conversation._model_side._session.tokens
    reply = [*thought, *([tokenizer.control_ids[END_THINK]] if thought else []), *said]
    end = done.usage.prompt_tokens + len(reply)
    # The session stands within the answer, before the token in which the stop text begins.
    assert done.usage.prompt_tokens < len(timeline) <= end
    assert timeline == (timeline[: done.usage.prompt_tokens] + reply)[: len(timeline)]
    assert conversation.context().used == len(timeline) >= end - 2
    _, second = answer(conversation, "on")
    if thinking is CHAT:  # else the old reasoning goes, and with it what followed
        assert second.usage.cached_tokens == len(timeline)


def test_retry_and_undo_after_a_stop(tokenizer: Tokenizer) -> None:
    conversation = stopping(tokenizer, "One.END", "Two.END")
    first = answer(conversation, "go")
    assert outcome(conversation.retry()) == (
        first[0],
        Done("stop_text", conversation_usage(first[1]), stop_text="END"),
    )
    assert conversation.undo() == "go"
    assert conversation.messages == []


def conversation_usage(done: Done) -> Usage:
    """Of the same answer to a prompt that is held already."""
    usage = done.usage
    return Usage(usage.prompt_tokens, usage.prompt_tokens, usage.completion_tokens)


def test_generation_ends_with_the_token_that_completes_the_text(tokenizer: Tokenizer) -> None:
    text = "One two END and ever so much more."
    conversation = stopping(tokenizer, text)
    _, done = answer(conversation, "go")
    needed = next(
        count
        for count in range(len(text))
        if "END" in tokenizer.decode(tokenizer.encode(text)[:count])
    )
    assert done.usage.completion_tokens == needed


def test_an_empty_stop_text_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="at least one character"):
        list(talk(tokenizer, "x", stop=[""]).send("go"))
    with pytest.raises((UsageError, ChatError)):
        StopTexts(["a", ""])


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_what_is_shown_of_a_stop_text_reads_back(text: str) -> None:
    assert unescaped(escaped(text)) == text
    assert not {"\n", "\t", "\r"} & set(escaped(text))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"\n", "\n"), (r"a\tb", "a\tb"), (r"\\n", r"\n"), (r"\d", r"\d"), ("\\", "\\")],
)
def test_escapes(typed: str, meant: str) -> None:
    assert unescaped(typed) == meant
