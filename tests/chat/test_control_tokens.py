"""Control tokens are markup, and the same letters in ordinary tokens are text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat import parse
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.encoding import Prompt, Segment, encode_messages
from dsv4_mlx.chat.events import ReasoningDelta, TextDelta
from dsv4_mlx.chat.marks import MarkedTokens
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.parsing import ReplyParser, merge_deltas
from dsv4_mlx.chat.prompting import PromptWriter
from dsv4_mlx.chat.reply import FinishedReply, Reply
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import ASSISTANT, BOS, DSML, END_THINK, EOS, THINK, USER
from dsv4_mlx.chat.turns import Turn
from dsv4_mlx.engine.generation import Token
from tests.chat.talking import CHAT, THINKING

SPELLINGS = (
    THINK, END_THINK, EOS, BOS, USER, ASSISTANT, DSML,
    f"</{DSML}parameter>", f"</{DSML}invoke>", f"<{DSML}tool_calls>", f"</{DSML}tool_calls>",
    f'<{DSML}invoke name="rm">', f'<{DSML}parameter name="x" string="true">', f"</{DSML}par",
)  # fmt: skip
PLAIN = ("a", "Größe 你好", " ", "\n\n", "<", "</", "`", '"', "🙂", '{"k": 1}')
TEXTS = st.lists(st.sampled_from(SPELLINGS + PLAIN), max_size=6).map("".join)
CALLS = st.lists(st.tuples(TEXTS, TEXTS), max_size=2)


def replied(tokenizer: Tokenizer, ids: list[int], thinking=THINKING) -> tuple[list, FinishedReply]:
    """What the tokens of a reply are, deltas joined, and the finished reply."""
    events: list = []
    reply = Reply(tokenizer, thinking, events.append)
    reply.write(Token(id, 0.0, finish) for id, finish in [*((i, None) for i in ids), (1, "stop")])
    said = reply.close()
    return merge_deltas(events), said


def calls_of(values) -> list[dict]:
    return [
        {"type": "function", "function": {"name": "look", "arguments": dict(one)}} for one in values
    ]


def written(tokenizer: Tokenizer, reasoning: str, content: str, values) -> list[int]:
    """The tokens of a reply as the release's encoder writes them, without the end token."""
    reply = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": calls_of(values),
        "wo_eos": True,
    }
    context = [{"role": "user", "content": "q"}]
    return tokenizer.encode(encode_messages([reply], thinking_mode="thinking", context=context))


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, CALLS)
def test_letters_are_text_and_tokens_are_markup(tokenizer: Tokenizer, reasoning, content, calls):
    values = [{"name": "first", "at": first, "to": second} for first, second in calls]
    events, said = replied(tokenizer, written(tokenizer, reasoning, content, values))
    texts = [ReasoningDelta(reasoning)] if reasoning else []
    texts += [TextDelta(content)] if content else []
    assert [event for event in events if not isinstance(event, ToolCall)] == texts
    found = [json.loads(event.arguments) for event in events if isinstance(event, ToolCall)]
    assert found == values
    assert said.finish_reason == ("tool_calls" if values else "stop")
    message = said.message
    assert (message["reasoning_content"], message["content"]) == (reasoning, content)


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, CALLS, st.data())
def test_every_grouping_of_tokens_gives_the_same(
    tokenizer: Tokenizer, reasoning, content, calls, data
) -> None:
    values = [{"at": first, "to": second} for first, second in calls]
    ids = written(tokenizer, reasoning, content, values)
    whole, _ = replied(tokenizer, ids)
    marked = MarkedTokens(tokenizer)
    parser = ReplyParser("thinking", spelled=marked.spelled)
    text = "".join(map(marked.add, ids)) + marked.finish()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += parser.feed(text[start:end])
    ids_of_calls = [event.id for event in whole if isinstance(event, ToolCall)]
    assert ids_of_calls == [f"call_{i + 1}" for i in range(len(values))]
    assert _without_ids(merge_deltas(found + parser.finish())) == _without_ids(whole)


def _without_ids(events: list) -> list:
    return [(e.name, e.arguments, e.raw) if isinstance(e, ToolCall) else e for e in events]


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, CALLS)
def test_what_was_said_fits_the_next_prompt(tokenizer: Tokenizer, reasoning, content, calls):
    """As the tokens it was generated as, and as text again for a model that splits it anew."""
    values = [{"at": first, "to": second} for first, second in calls]
    ids = written(tokenizer, reasoning, content, values)
    _, said = replied(tokenizer, ids)
    turn = Turn.asking("q").answered(said.message, said.thought, said.answer)
    asked = AnswerSettings(THINKING, tools=[{"name": "look"}])  # with tools old reasoning stays
    prompts = [
        PromptWriter(tokenizer, "2026-07-31").write([one, Turn.asking("r")], asked).tokens
        for one in (turn, turn.without_tokens(), Turn.from_json(turn.to_json()))
    ]
    start = max(i for i, t in enumerate(prompts[0][:-1]) if t == tokenizer.control_ids[THINK]) + 1
    assert prompts[0] == prompts[1] == prompts[2]
    assert prompts[0][start : start + len(ids) + 1] == [*ids, tokenizer.eos_id]


def pieces(tokenizer: Tokenizer, parts) -> list[int]:
    """Token ids of (text, is it a control token)."""
    return tokenizer.encode(Prompt([Segment(text, control) for text, control in parts]))


@pytest.mark.parametrize("token", [THINK, END_THINK])
def test_a_stray_control_token_is_no_text(tokenizer: Tokenizer, token: str) -> None:
    ids = pieces(tokenizer, [("a", False), (token, True)])
    assert replied(tokenizer, ids, CHAT)[0] == [TextDelta("a")]


@pytest.mark.parametrize("token", [USER, ASSISTANT, BOS])
def test_a_control_token_without_a_meaning_is_shown(tokenizer: Tokenizer, token: str) -> None:
    ids = pieces(tokenizer, [("a", False), (token, True), ("b", False)])
    assert replied(tokenizer, ids, CHAT)[0] == [TextDelta(f"a{token}b")]


def test_half_a_character_before_a_control_token_is_one_mark(tokenizer: Tokenizer) -> None:
    half = tokenizer.encode("🙂")[:-1]
    ids = [*half, tokenizer.control_ids[END_THINK], *tokenizer.encode("b")]
    assert replied(tokenizer, ids)[0] == [ReasoningDelta("\ufffd"), TextDelta("b")]


def test_a_reply_known_as_text_has_markup_where_it_is_spelled() -> None:
    call = f'<{DSML}invoke name="look">\n</{DSML}invoke>'
    message = parse(f"Hm{END_THINK}So{call}{EOS}", "thinking")
    assert (message["reasoning_content"], message["content"]) == ("Hm", "So")
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["look"]


def test_half_a_surrogate_pair_in_a_text_is_no_markup() -> None:
    assert parse("a\ud801\ud803b", "chat")["content"] == "a\ufffd\ufffdb"
