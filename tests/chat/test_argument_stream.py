"""Arguments of calls in pieces: the same text as whole, whatever the split and the schema."""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat import ReplyParser, ToolCall, encode_messages, merge_deltas
from dsv4_mlx.chat.argument_stream import UNREADABLE
from dsv4_mlx.chat.events import CallArguments, CallBegun, TextDelta
from dsv4_mlx.chat.reply import FinishedReply, Reply
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.chat.tokens import DSML, END_THINK, EOS, THINK
from dsv4_mlx.engine.generation import Token
from tests.chat.talking import CHAT

OPEN, CLOSE = f"<{DSML}tool_calls>\n", f"\n</{DSML}tool_calls>"
INVOKE, INVOKED = f'<{DSML}invoke name="f">\n', f"\n</{DSML}invoke>"
ENDED = f"</{DSML}parameter>"


def parameter(name: str, text: str, kind: str | None = "true") -> str:
    attribute = f' string="{kind}"' if kind else ""
    return f'<{DSML}parameter name="{name}"{attribute}>{text}{ENDED}'


def streamed(pieces: Iterable[str], tools: Sequence[Any] = (), is_whole: bool = False) -> list[Any]:
    parser = ReplyParser("chat", tools=tools, streams_calls=True)
    found = [event for piece in pieces for event in parser.feed(piece)]
    return merge_deltas([*found, *parser.finish(is_whole)])


def whole(text: str, tools: Sequence[Any] = ()) -> list[Any]:
    parser = ReplyParser("chat", tools=tools)
    return merge_deltas([*parser.feed(text), *parser.finish()])


def without_parts(events: Iterable[Any]) -> list[Any]:
    kept = [event for event in events if not isinstance(event, CallBegun | CallArguments)]
    return merge_deltas(kept)


def check(events: Sequence[Any]) -> str | None:
    """Every call is begun, given and closed; the pieces of one that stays open at the end."""
    begun: str | None = None
    pieces = ""
    for event in events:
        match event:
            case CallBegun():
                assert begun is None
                begun, pieces = event.name, ""
            case CallArguments():
                assert begun is not None and event.json
                pieces += event.json
            case ToolCall():
                assert (begun, pieces) == (event.name, event.arguments)
                assert isinstance(json.loads(pieces), dict)
                begun = None
            case _:
                assert begun is None
    return None if begun is None else pieces


def is_beginning(pieces: str) -> bool:
    """Whether `pieces` begin a JSON object, cut between characters or members."""
    for rest in ("{}", "}", '"}'):
        try:
            return isinstance(json.loads(pieces + rest), dict)
        except json.JSONDecodeError:
            pass
    return False


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    places = [0, *sorted(place % (len(text) + 1) for place in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


HARD = (
    "", "007", "[]", "null", " 1.0", '"quoted"', "back\\slash\\", "a\nb\r\n\tc", "\x00\x1f\x7f",
    "Größe 你好 🙂 e\u0301\u2028", "</", "<", f"</{DSML[:-1]}", '{"a": [1, {"b": "\\u00e9"}]}',
    "[[[[[[[[[[1]]]]]]]]]]", 'name="x" string="true">', "\\u12", "x" * 500,
)  # fmt: skip
LITERAL = (f"</{DSML}param", f"<{DSML}invoke>", THINK, END_THINK, EOS, DSML)
STRINGS = st.sampled_from(HARD) | st.lists(st.sampled_from(HARD), max_size=4).map("".join)
NAMES = st.sampled_from(["k", "l", "m", "arguments", "input", "größe", 'a"b'])
VALUES = st.recursive(
    STRINGS | st.integers() | st.booleans() | st.none() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=5,
)
SCHEMAS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": ["string", "null"]},
        {"enum": ["007", "", "x"]},
        {"anyOf": [{"type": "array"}, {"type": "string"}]},
        {"type": "object"},
        {},
        True,
    ]
)
TOOLS = st.one_of(
    st.just([]),
    st.dictionaries(NAMES, SCHEMAS, max_size=4).map(
        lambda properties: [{"name": "f", "parameters": {"properties": properties}}]
    ),
    st.just([{"name": "f", "parameters": {"type": "object"}}]),
)
CUTS = st.lists(st.integers(0, 5000), max_size=12)


def written(arguments: dict[str, Any]) -> str:
    function = {"name": "f", "arguments": json.dumps(arguments, ensure_ascii=False)}
    reply = {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}
    context = [{"role": "user", "content": "q"}]
    return str(encode_messages([reply], thinking_mode="chat", context=context))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4), TOOLS, CUTS)
def test_any_split_gives_the_arguments_as_they_are_whole(arguments, tools, cuts) -> None:
    text = written(arguments)
    events = streamed(cut(text, cuts), tools)
    assert check(events) is None
    assert without_parts(events) == whole(text, tools)
    assert events == streamed(text, tools)


FRAGMENTS = [
    "a", "🙂", "\n", "<", ">", '"', "{}", EOS, DSML, OPEN, CLOSE, INVOKE, INVOKED, "\\",
    parameter("k", "v"), parameter("k", "7", "false"), parameter("input", '{"k": 1}', "false"),
    parameter("l", '"', None), ENDED, f"<{DSML}parameter", ' name="x"', ' string="true">',
    ' string="false">', f"</{DSML}inv>", f"</{DSML}param>", f"</{DSML}",
]  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), TOOLS, CUTS)
def test_whatever_is_written_the_pieces_stay_json(text, tools, cuts) -> None:
    events = streamed(cut(text, cuts), tools)
    assert events == streamed([text], tools)
    left = check(events)
    if left is not None:
        assert is_beginning(left)
    elif not any(UNREADABLE in e.arguments for e in events if isinstance(e, ToolCall)):
        assert without_parts(events) == whole(text, tools)


def test_a_string_goes_out_as_it_is_written() -> None:
    parser = ReplyParser("chat", streams_calls=True)
    assert parser.feed(OPEN + INVOKE + f"<{DSML}parameter") == [CallBegun("", "f")]
    assert parser.feed(' name="k" string="true">') == [CallArguments("", '{"k": "')]
    assert parser.feed('a "') == [CallArguments("", 'a \\"')]
    assert parser.feed("\n</") == [CallArguments("", "\\n")]
    assert parser.feed("b<" + DSML) == [CallArguments("", f"</b<{DSML}")]
    assert parser.feed(ENDED[:-1]) == []
    assert parser.feed(">") == [CallArguments("", '"')]
    *_, closing, call = parser.feed(INVOKED)
    assert closing == CallArguments("", "}")
    assert (call.name, json.loads(call.arguments)) == ("f", {"k": f'a "\n</b<{DSML}'})


@pytest.mark.parametrize(
    ("schema", "kind", "text", "value"),
    [
        ({"type": "integer"}, "true", "007", "007"),
        ({"type": "integer"}, "true", "7", 7),
        ({"enum": ["a", 7]}, "true", "7", 7),
        ({"type": "array"}, "false", "[1, 2]", [1, 2]),
        ({"type": "string"}, "false", "7", "7"),
        ({"type": "string"}, None, "[1]", "[1]"),
    ],
)
def test_what_may_still_be_read_otherwise_waits(schema, kind, text, value) -> None:
    tools = [{"name": "f", "parameters": {"properties": {"k": schema}}}]
    parser = ReplyParser("chat", tools=tools, streams_calls=True)
    text = OPEN + INVOKE + parameter("k", text, kind)
    assert parser.feed(text[:-1]) == [CallBegun("", "f")]
    (given_whole,) = parser.feed(text[-1])
    assert json.loads(given_whole.json + "}") == {"k": value}


@pytest.mark.parametrize("name", ["arguments", "input"])
def test_a_wrapper_waits_until_it_is_known_what_it_is(name: str) -> None:
    tools = [{"name": "f", "parameters": {"properties": {"k": {"type": "string"}}}}]
    begun = INVOKE + parameter(name, '{"k": 7}', "false")
    assert streamed([begun, INVOKED], tools)[1:2] == [CallArguments("", '{"k": "7"}')]
    other = streamed([begun, parameter("k", "v"), INVOKED], tools)
    assert other[1].json == f'{{"{name}": {{"k": 7}}, "k": "v"}}'
    unknown = streamed([INVOKE, parameter(name, '{"z": 7}', "false"), INVOKED], tools)
    assert unknown[1].json == f'{{"{name}": {{"z": 7}}}}'
    has_it = [{"name": "f", "parameters": {"properties": {name: {"type": "string"}}}}]
    parser = ReplyParser("chat", tools=has_it, streams_calls=True)
    assert parser.feed(INVOKE + parameter(name, "v")[: -len(ENDED)])[1:] == [
        CallArguments("", f'{{"{name}": "v')
    ]


def test_a_parameter_without_sense_is_handed_over_as_text() -> None:
    twice = INVOKE + parameter("k", "v") + parameter("k", "w") + f"<{DSML}parameter>z{ENDED}"
    events = streamed(twice + INVOKED)
    assert check(events) is None
    assert json.loads(events[-1].arguments) == {
        "k": "v",
        f"{UNREADABLE} 1": ' name="k" string="true">w',
        f"{UNREADABLE} 2": ">z",
    }


def test_a_call_that_never_began_is_text() -> None:
    text = INVOKE.replace('"f"', "") + parameter("k", "v") + INVOKED
    assert streamed(text) == [TextDelta(text)]
    assert streamed(INVOKE + "{no json" + INVOKED) == [TextDelta(INVOKE + "{no json" + INVOKED)]


@pytest.mark.parametrize("rest", ["", "\n", f"\n</{DSML}", f"\n</{DSML}invoke"])
def test_the_models_own_end_closes_a_call_between_parameters(rest: str) -> None:
    text = INVOKE + parameter("k", "v") + rest
    events = streamed([text], is_whole=True)
    assert check(events) is None and events[-1].arguments == '{"k": "v"}'
    assert check(streamed([text])) == '{"k": "v"'
    assert check(streamed([text + f"<{DSML}para"], is_whole=True)) == '{"k": "v"'


# By tokens


def replied(tokenizer: Tokenizer, ids: list[int], finish: str) -> tuple[list[Any], FinishedReply]:
    events: list[Any] = []
    reply = Reply(tokenizer, CHAT, events.append, on_call_part=events.append)
    for id in ids[:-1]:
        reply.take(Token(id, 0.0, None))
    reply.take(Token(ids[-1], 0.0, finish))
    said = reply.close()
    return events, said


def tokens(tokenizer: Tokenizer, content: str, calls: Sequence[dict[str, str]]) -> list[int]:
    functions = [{"name": "look", "arguments": arguments} for arguments in calls]
    reply = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"type": "function", "function": function} for function in functions],
    }
    context = [{"role": "user", "content": "q"}]
    return tokenizer.encode(encode_messages([reply], thinking_mode="chat", context=context))


CALLED = st.dictionaries(NAMES, st.sampled_from(HARD + LITERAL), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["", "Größe"]), st.lists(CALLED, max_size=2))
def test_letters_of_markers_are_text_in_pieces_too(tokenizer: Tokenizer, content, calls) -> None:
    events, said = replied(tokenizer, tokens(tokenizer, content, calls), "stop")
    assert check(events) is None
    closed = [event for event in events if isinstance(event, ToolCall)]
    assert [json.loads(call.arguments) for call in closed] == calls
    parts = [event.call_id for event in events if isinstance(event, CallBegun | CallArguments)]
    assert list(dict.fromkeys(parts)) == [call.id for call in closed]
    assert [call["id"] for call in said.message["tool_calls"]] == [call.id for call in closed]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["", "Größe"]), st.lists(CALLED, min_size=1, max_size=2), st.integers(1))
def test_a_reply_that_ends_in_a_call_leaves_it_open(
    tokenizer: Tokenizer, content, calls, end
) -> None:
    ids = tokens(tokenizer, content, calls)[:-1]
    ids = ids[: 1 + end % len(ids)]
    events, said = replied(tokenizer, ids, "length")
    left = check(events)
    assert said.finish_reason == "length"
    if DSML in tokenizer.control_ids:  # else its letters may be text
        assert DSML not in said.message["content"]
        assert content.startswith(said.message["content"].rstrip("\n<"))
    if left is not None:
        assert is_beginning(left)
        assert said.message["content"] == content
        if not said.message["tool_calls"]:
            assert tokenizer.decode(list(said.answer)) == content
