"""Replies back to messages: by the letter, leniently, and the same for every split."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat import (
    ChatError,
    ReasoningDelta,
    ReplyParser,
    TextDelta,
    ToolCall,
    encode_messages,
    merge_deltas,
    parse,
)
from dsv4_mlx.chat.tokens import DSML, END_THINK, EOS, THINK
from dsv4_mlx.errors import PromptError

GOLDEN = Path(__file__).parents[1] / "golden" / "chat" / "cases.json"
CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))["parse"]
IDS = [case["id"] for case in CASES]

OPEN, CLOSE = f"\n\n<{DSML}tool_calls>\n", f"\n</{DSML}tool_calls>"
INVOKE, INVOKED = f'<{DSML}invoke name="f">\n', f"\n</{DSML}invoke>"
PARAMETER = f'<{DSML}parameter name="k" string="true">v</{DSML}parameter>'
CALL = INVOKE + PARAMETER + INVOKED


def message(content="", reasoning="", *calls):
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [{"type": "function", "function": function} for function in functions],
    }


def strict_message(case):
    calls = [
        (entry["function"]["name"], entry["function"]["arguments"])
        for entry in case["expected_strict"]["tool_calls"]
    ]
    wanted = case["expected_strict"]
    return message(wanted["content"], wanted["reasoning_content"], *calls)


def events(pieces, mode, strict=False):
    parser = ReplyParser(mode, strict=strict)
    found = [event for piece in pieces for event in parser.feed(piece)]
    return merge_deltas(found + parser.finish())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_strict_equals_the_release(case):
    if "error" in case["expected_strict"]:
        with pytest.raises(ChatError) as caught:
            parse(case["text"], case["thinking_mode"], strict=True)
        assert isinstance(caught.value, PromptError) and isinstance(caught.value, ValueError)
    else:
        parsed = parse(case["text"], case["thinking_mode"], strict=True)
        assert parsed == strict_message(case)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_lenient_equals_strict_where_strict_accepts(case):
    if "error" not in case["expected_strict"]:
        assert parse(case["text"], case["thinking_mode"]) == strict_message(case)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_lenient_finds_the_calls_that_vllm_finds(case):
    functions = [
        entry["function"] for entry in parse(case["text"], case["thinking_mode"])["tool_calls"]
    ]
    found = [
        {"name": function["name"], "arguments": json.loads(function["arguments"])}
        for function in functions
    ]
    assert found == case["vllm_lenient_calls"]


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        f"Hello{EOS}more",
        f"a{THINK}b{EOS}",
        f"a{END_THINK}b{EOS}",
        f"a{DSML}b{EOS}",
        OPEN + CALL + CLOSE + "more" + EOS,
        OPEN + "text" + CALL + CLOSE + EOS,
        OPEN + INVOKE + PARAMETER.replace("true", "maybe") + INVOKED + CLOSE + EOS,
        OPEN + INVOKE + PARAMETER + PARAMETER + INVOKED + CLOSE + EOS,
        OPEN + CALL.replace('name="f"', "f") + CLOSE + EOS,
        OPEN + CALL + EOS,
    ],
)
def test_strict_refuses_what_the_encoder_would_not_write(text):
    with pytest.raises(ChatError) as caught:
        parse(text, "chat", strict=True)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


LENIENT = {
    "no end token": ("Hello", "chat", message("Hello")),
    "no end of the reasoning": ("Hm", "thinking", message("", "Hm")),
    "no string attribute, JSON": (
        OPEN + CALL.replace(' string="true">v', ">[1]") + CLOSE,
        "chat",
        message("", "", ("f", '{"k": [1]}')),
    ),
    "no string attribute, text": (
        OPEN + CALL.replace(' string="true"', "") + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "string false, but text": (
        OPEN + CALL.replace("true", "false") + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "string false, but NaN": (
        OPEN + CALL.replace('"true">v', '"false">NaN') + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "NaN"}')),
    ),
    "other quotes": (
        OPEN + CALL.replace('"', "'") + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "block called toolcalls": (
        (OPEN + CALL + CLOSE).replace("tool_calls", "toolcalls"),
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "block called tool": (
        (OPEN + CALL + CLOSE).replace("tool_calls", "tool"),
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "block without an empty line before": (
        "Text" + (OPEN + CALL + CLOSE).lstrip(),
        "chat",
        message("Text", "", ("f", '{"k": "v"}')),
    ),
    "call without a block": (
        "Text\n\n" + CALL,
        "chat",
        message("Text", "", ("f", '{"k": "v"}')),
    ),
    "truncated closing of the call": (
        OPEN + CALL.replace("/" + DSML + "invoke", "/" + DSML + "inv") + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "truncated closing of a parameter": (
        OPEN + CALL.replace("/" + DSML + "parameter", "/" + DSML + "param") + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "call closed by the next one": (
        OPEN + INVOKE + PARAMETER + CALL + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}'), ("f", '{"k": "v"}')),
    ),
    "call closed by the block": (
        OPEN + INVOKE + PARAMETER + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "call closed by the end token": (
        OPEN + INVOKE + PARAMETER + EOS,
        "chat",
        message("", "", ("f", '{"k": "v"}')),
    ),
    "call before the reasoning ends": (
        "Hm" + OPEN + CALL + CLOSE,
        "thinking",
        message("", "Hm", ("f", '{"k": "v"}')),
    ),
    "reasoning ended after the call": (
        "Hm" + OPEN + CALL + CLOSE + END_THINK + "Done",
        "thinking",
        message("Done", "Hm", ("f", '{"k": "v"}')),
    ),
    "reasoning opened twice": (
        f"{THINK}Hm{END_THINK}Hi{EOS}",
        "thinking",
        message("Hi", "Hm"),
    ),
    "reasoning ended twice": (
        f"Hm{END_THINK}{END_THINK}Hi{EOS}",
        "thinking",
        message("Hi", "Hm"),
    ),
    "bare end of reasoning": (f"{END_THINK}Hi", "chat", message("Hi")),
    "reasoning in chat mode": (f"{THINK}Hm{END_THINK}Hi", "chat", message("Hi", "Hm")),
    "thinking tags as the subject": (
        f'Write `{THINK}` and "{END_THINK}".',
        "chat",
        message(f'Write `{THINK}` and "{END_THINK}".'),
    ),
    "stray tag after the end token": (f'"a"{EOS}{END_THINK}', "chat", message('"a"')),
    "an argument called arguments": (
        OPEN + CALL.replace('"k" string="true">v', '"arguments" string="false">{"a": 1}') + CLOSE,
        "chat",
        message("", "", ("f", '{"arguments": {"a": 1}}')),
    ),
    "arguments as one JSON object": (
        OPEN + INVOKE + '{"a": 1}' + INVOKED + CLOSE,
        "chat",
        message("", "", ("f", '{"a": 1}')),
    ),
    "the last of two values": (
        OPEN + INVOKE + PARAMETER + PARAMETER.replace(">v<", ">w<") + INVOKED + CLOSE,
        "chat",
        message("", "", ("f", '{"k": "w"}')),
    ),
    "text around calls": (
        "a" + OPEN + "b" + CALL + "c" + CLOSE + "\nd" + EOS,
        "chat",
        message("a\nbc\n\nd", "", ("f", '{"k": "v"}')),
    ),
    "cut within a call": (OPEN + INVOKE + PARAMETER[:-5], "chat", message(INVOKE + PARAMETER[:-5])),
    "cut after a parameter": (OPEN + INVOKE + PARAMETER, "chat", message(INVOKE + PARAMETER)),
    "no name": (OPEN + CALL.replace('"f"', ""), "chat", message(CALL.replace('"f"', ""))),
    "half a marker": ("a\n\n<" + DSML + "tool_c", "chat", message("a\n\n<" + DSML + "tool_c")),
}


@pytest.mark.parametrize(("text", "mode", "wanted"), LENIENT.values(), ids=LENIENT)
def test_lenient_reads(text, mode, wanted):
    assert parse(text, mode) == wanted
    assert events(text, mode) == events([text], mode)


def test_text_comes_as_soon_as_it_is_decided():
    parser = ReplyParser("thinking")
    assert parser.feed("Hm") == [ReasoningDelta("Hm")]
    assert parser.feed(".</th") == [ReasoningDelta(".")]
    assert parser.feed("ink>Hi\n") == [TextDelta("Hi")]
    assert parser.feed("\n") == []
    assert parser.feed("you\n") == [TextDelta("\n\nyou")]
    assert parser.finish() == [TextDelta("\n")]
    assert parser.close() == message("Hi\n\nyou\n", "Hm.")


def test_call_comes_when_it_is_closed_and_remembers_its_spelling():
    parser = ReplyParser("chat")
    assert parser.feed((OPEN + CALL)[:-1]) == []
    assert parser.feed(">") == [ToolCall("f", '{"k": "v"}', raw=CALL)]


def test_close_without_finish_loses_nothing():
    parser = ReplyParser("chat")
    parser.feed("a\n\n")
    assert parser.close() == message("a\n\n")


def test_strict_events_are_those_of_the_message():
    """A parameter that is really called `arguments` stays one."""
    text = OPEN + CALL.replace('"k" string="true">v', '"arguments" string="false">{}') + CLOSE + EOS
    (entry,) = parse(text, "chat", strict=True)["tool_calls"]
    (event,) = events([text], "chat", strict=True)
    assert event.arguments == entry["function"]["arguments"] == '{"arguments": {}}'


def test_unknown_mode_is_refused():
    with pytest.raises(ChatError):
        ReplyParser("deep")


FRAGMENTS = [
    "a", "é🙂", " ", "\n", "\n\n", "<", ">", '"', "`", "{}", THINK, END_THINK, EOS, DSML,
    OPEN, CLOSE, INVOKE, INVOKED, PARAMETER, CALL, f"<{DSML}tool>", f"</{DSML}inv>",
    f"<{DSML}parameter", ' name="x"', ' string="false">', f"</{DSML}param>", f"</{DSML}",
]  # fmt: skip
MODES = st.sampled_from(["chat", "thinking"])
REPLIES = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


@settings(max_examples=200, deadline=None)
@given(REPLIES, MODES, st.lists(st.integers(0, 400), max_size=8))
def test_every_split_gives_the_same_events(text, mode, cuts):
    whole = events([text], mode)
    assert events(text, mode) == whole
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert events(pieces, mode) == whole


@settings(max_examples=100, deadline=None)
@given(st.one_of(REPLIES, st.text()), MODES)
def test_lenient_reads_any_text_and_writes_valid_json(text, mode):
    for entry in parse(text, mode)["tool_calls"]:
        assert isinstance(json.loads(entry["function"]["arguments"]), dict)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=10), MODES)
def test_no_word_is_lost(fragments, mode):
    """A word at every seam of a reply, however broken, is in the answer or in a call's spelling."""
    text = "".join(f"w{place}.{fragment}" for place, fragment in enumerate(fragments))
    kept = "".join(
        event.raw if isinstance(event, ToolCall) else event.text for event in events([text], mode)
    )
    assert [place for place in range(len(fragments)) if f"w{place}." not in kept] == []


@settings(max_examples=100, deadline=None)
@given(REPLIES, MODES)
def test_events_and_message_agree(text, mode):
    parser = ReplyParser(mode)
    found = parser.feed(text) + parser.finish()
    parsed = parser.close()
    texts = "".join(event.text for event in found if isinstance(event, TextDelta))
    assert parsed["content"] == texts
    calls = [event.to_dict() for event in found if isinstance(event, ToolCall)]
    assert parsed["tool_calls"] == calls


def test_deeply_nested_value_is_text():
    value = "[" * 100_000
    text = OPEN + CALL.replace('"true">v', f'"false">{value}') + CLOSE
    (entry,) = parse(text, "chat")["tool_calls"]
    assert json.loads(entry["function"]["arguments"]) == {"k": value}


PROSE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="｜")).filter(
    lambda text: THINK not in text and END_THINK not in text
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='｜"\n'), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | PROSE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
CALLS = st.lists(st.tuples(NAMES, st.dictionaries(NAMES, JSON, max_size=3)), max_size=3)


@settings(max_examples=150, deadline=None)
@given(PROSE, PROSE, CALLS, MODES)
def test_parsing_undoes_encoding(content, reasoning, calls, mode):
    written = [(name, json.dumps(values, ensure_ascii=False)) for name, values in calls]
    reply = message(content, reasoning if mode == "thinking" else "", *written)
    context = [{"role": "user", "content": "q"}]
    text = str(encode_messages([reply], thinking_mode=mode, context=context))
    assert parse(text, mode, strict=True) == reply
    assert parse(text, mode) == reply
    assert parse(text.removesuffix(EOS), mode)["content"] == content


def test_parsed_reply_can_be_sent_back():
    text = "Hm" + END_THINK + "Now" + OPEN + CALL + CLOSE + EOS
    system = {"role": "system", "content": "", "tools": [{"function": {"name": "f"}}]}
    talk = [system, {"role": "user", "content": "q"}, parse(text, "thinking")]
    assert str(encode_messages(talk, thinking_mode="thinking")).endswith(THINK + text)


def test_text_layer_imports_no_mlx():
    modules = "dsv4_mlx.chat, dsv4_mlx.chat.messages, dsv4_mlx.chat.encoding, dsv4_mlx.chat.parsing"
    heavy = "{'mlx', 'numpy', 'tokenizers', 'transformers', 'torch'}"
    script = f"import sys, {modules}; sys.exit(sorted({heavy} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", script], check=True)
