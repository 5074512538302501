"""The encoder against the reference encoders' strings, and the rules they leave untested."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat import ChatError, encode_messages
from dsv4_mlx.chat.tokens import (
    ASSISTANT,
    BOS,
    DSML,
    END_THINK,
    EOS,
    LATEST_REMINDER,
    THINK,
    USER,
    V4_TOKENS,
)
from dsv4_mlx.errors import PromptError

GOLDEN = Path(__file__).parents[1] / "golden" / "chat" / "cases.json"
CASES = json.loads(GOLDEN.read_text(encoding="utf-8"))["render"]
TOOL = {"type": "function", "function": {"name": "f"}}


def prompt(*messages, **options):
    return str(encode_messages(messages, **options))


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, arguments="{}", call_id=""):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def expected(case, table):
    key = "expected_0424" if table == "2026-04" else "expected_0731"
    return case.get(key, case["expected_0731"])


@pytest.mark.parametrize("table", ["2026-04", "2026-07-31"])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_prompt_equals_the_reference_encoder(case, table):
    wanted = expected(case, table)
    if isinstance(wanted, dict):
        with pytest.raises(ChatError):
            encode_messages(case["messages"], effort_table=table, **case["kwargs"])
    else:
        assert prompt(*case["messages"], effort_table=table, **case["kwargs"]) == wanted


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_encoding_leaves_the_messages_alone(case):
    before = json.dumps(case["messages"])
    if isinstance(case["expected_0731"], str):
        encode_messages(case["messages"], effort_table="2026-07-31", **case["kwargs"])
    assert json.dumps(case["messages"]) == before


def test_no_messages_are_the_beginning_token_alone():
    assert prompt() == BOS
    assert prompt(add_default_bos_token=False) == ""


def test_context_is_counted_but_not_written():
    context = [user("1+1"), assistant("2", tool_calls=[call("a", call_id="x")])]
    results = [
        {"role": "tool", "tool_call_id": "x", "content": "X"},
        user("go"),
    ]
    text = prompt(*results, context=context)
    assert text == f"{USER}<tool_result>X</tool_result>\n\ngo{ASSISTANT}{END_THINK}"


def test_calls_in_the_context_order_the_results_after_it():
    calls = [call("a", call_id="x"), call("b", call_id="y")]
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "yx"]
    text = prompt(*results, context=[user("q"), assistant("", tool_calls=calls)])
    assert text.index("<tool_result>x") < text.index("<tool_result>y")


def test_effort_prefix_is_written_once_for_context_and_messages():
    options = {"thinking_mode": "thinking", "reasoning_effort": "max"}
    assert "Absolute maximum" in prompt(user("a"), **options)
    following = prompt(assistant("b"), user("c"), context=[user("a")], **options)
    assert "Absolute maximum" not in following


def test_unknown_call_ids_come_first_and_text_keeps_its_place():
    calls = [call("a", call_id="x"), call("b", call_id="y"), call("c", call_id="z")]
    results = [
        {"role": "tool", "tool_call_id": "z", "content": "Z"},
        user("between"),
        {"role": "tool", "tool_call_id": "y", "content": "Y"},
        {"role": "tool", "tool_call_id": "unknown", "content": "U"},
    ]
    text = prompt(user("q"), assistant("", tool_calls=calls), *results)
    turn = text.rsplit(USER, 1)[1].removesuffix(ASSISTANT + END_THINK)
    found = turn.replace("<tool_result>", "").replace("</tool_result>", "").split("\n\n")
    assert found == ["U", "between", "Y", "Z"]


def test_calls_and_results_without_ids_keep_their_order():
    calls = [call("a", call_id="x"), call("b")]
    results = [{"role": "tool", "content": "N"}, {"role": "tool", "tool_call_id": "x"}]
    text = prompt(user("q"), assistant("", tool_calls=calls), *results)
    assert "<tool_result>N</tool_result>\n\n<tool_result></tool_result>" in text


def test_messages_dropped_from_the_context_are_not_counted():
    context = [{"role": "developer", "content": "d"}, user("a"), assistant("b")]
    text = prompt(user("c"), context=context, thinking_mode="thinking")
    assert text == f"{USER}c{ASSISTANT}{THINK}"


def test_list_content_joins_text_and_names_what_is_unsupported():
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    joined = "a\n\n[Unsupported image_url]\n\nb"
    assert prompt(user(parts)) == f"{BOS}{USER}{joined}{ASSISTANT}{END_THINK}"
    result = {"role": "tool", "tool_call_id": "x", "content": parts}
    assert f"<tool_result>{joined}</tool_result>" in prompt(result)


@pytest.mark.parametrize(
    "task", ["query", "authority", "domain", "title", "read_url", "extracted_url"]
)
def test_task_token_follows_the_message(task):
    assert prompt(user("hello", task=task)) == f"{BOS}{USER}hello<｜{task}｜>"


def test_action_task_opens_an_assistant_turn():
    text = prompt(user("hello", task="action"), thinking_mode="thinking")
    assert text == f"{BOS}{USER}hello{ASSISTANT}{THINK}<｜action｜>"
    assert prompt(user("hello", task="action")).endswith(f"{ASSISTANT}{END_THINK}<｜action｜>")


def test_answer_to_a_task_has_no_thinking_part():
    talk = [user("hi"), assistant("hello", reasoning_content="r", task="title"), assistant("T")]
    text = prompt(*talk, thinking_mode="thinking")
    thought = f"{ASSISTANT}{THINK}r{END_THINK}hello{EOS}"
    assert text == f"{BOS}{USER}hi{thought}<｜title｜>T{EOS}"


def test_user_message_does_not_join_a_turn_with_a_task():
    text = prompt(user("a", task="title"), user("b"))
    assert text == f"{BOS}{USER}a{USER}b{ASSISTANT}{END_THINK}"


def test_tool_result_joins_a_turn_with_a_task():
    text = prompt(user("a", task="title"), {"role": "tool", "content": "T"})
    assert text == f"{BOS}{USER}a\n\n<tool_result>T</tool_result><｜title｜>"


def test_tools_keep_all_reasoning():
    talk = [user("a"), assistant("b", reasoning_content="why"), user("c")]
    assert "why" not in prompt(*talk, thinking_mode="thinking")
    assert "why" in prompt(*talk, thinking_mode="thinking", drop_thinking=False)
    system = {"role": "system", "content": "s", "tools": [TOOL]}
    assert "why" in prompt(system, *talk, thinking_mode="thinking")


def test_developer_message_carries_tools_and_response_format():
    developer = {
        "role": "developer",
        "content": "Do",
        "tools": [TOOL],
        "response_format": {"a": 1},
    }
    text = prompt(developer)
    assert text.startswith(f"{BOS}{USER}Do\n\n## Tools")
    assert text.endswith(f'schema to reply:\n{{"a": 1}}{ASSISTANT}{END_THINK}')


def test_reminder_stands_between_system_and_user():
    system, reminder = {"role": "system", "content": "s"}, {"role": "latest_reminder"}
    text = prompt(system, {**reminder, "content": "today"}, user("q"))
    assert text == f"{BOS}s{LATEST_REMINDER}today{USER}q{ASSISTANT}{END_THINK}"


def test_unknown_role_before_the_last_user_is_dropped_with_the_thinking():
    talk = [user("a"), {"role": "critic", "content": "hm"}, user("b")]
    assert "hm" not in prompt(*talk, thinking_mode="thinking")
    with pytest.raises(ChatError, match="'critic'"):
        prompt(*talk)


def test_arguments_that_are_no_json_are_one_string():
    text = prompt(user("q"), assistant("", tool_calls=[call("f", "not json")]))
    assert f'<{DSML}parameter name="arguments" string="true">not json</{DSML}parameter>' in text


def test_arguments_may_be_a_dictionary():
    as_text = assistant("", tool_calls=[call("f", '{"a": [1, "é"]}')])
    as_dict = assistant("", tool_calls=[call("f", {"a": [1, "é"]})])
    assert prompt(user("q"), as_dict) == prompt(user("q"), as_text)


@pytest.mark.parametrize(
    "message",
    [
        "text",
        {"content": "no role"},
        {"role": "user", "content": 3},
        {"role": "user", "content": ["text"]},
        {"role": "user", "content": [{"type": "text", "text": 1}]},
        {"role": "user", "content": "a", "task": "dance"},
        {"role": "user", "content": "a", "task": {}},
        {"role": "nobody", "content": "a"},
        {"role": "developer", "content": None},
        {"role": "system", "content": "a", "tools": "f"},
        {"role": "system", "content": "a", "tools": [{"name": "f"}]},
        {"role": "system", "content": "a", "response_format": {"a": {1}}},
        {"role": "assistant", "content": "a", "reasoning_content": ["r"]},
        {"role": "assistant", "tool_calls": [{"name": "f"}]},
        {"role": "assistant", "tool_calls": [call("f", None)]},
        {"role": "assistant", "tool_calls": [call("f", "[1]")]},
    ],
)
def test_bad_message_is_one_sentence(message):
    with pytest.raises(PromptError) as caught:
        encode_messages([message])
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"thinking_mode": "deep"}, {"effort_table": "2025"}, {"reasoning_effort": "low"}]
)
def test_bad_option_is_refused(options):
    with pytest.raises(ChatError):
        encode_messages([user("a")], **options)


SPELLED = st.lists(st.sampled_from([*V4_TOKENS, "a", " ", "\n", "<", "é", "🙂"])).map("".join)


@st.composite
def conversations(draw):
    roles = ["system", "user", "assistant", "tool", "latest_reminder"]
    messages = []
    for role in draw(st.lists(st.sampled_from(roles), max_size=5)):
        message = {"role": role, "content": draw(SPELLED)}
        if role == "assistant":
            message["reasoning_content"] = draw(SPELLED)
            names = draw(st.lists(SPELLED, max_size=2))
            value = json.dumps({draw(SPELLED): draw(SPELLED)}, ensure_ascii=False)
            message["tool_calls"] = [call(name, value) for name in names]
        if role == "system" and draw(st.booleans()):
            message["tools"] = [{"function": {"description": draw(SPELLED)}}]
        messages.append(message)
    return messages


def unspelled(messages):
    """The same messages with every spelled control token replaced by harmless text."""
    text = json.dumps(messages, ensure_ascii=False)
    for number, token in enumerate(V4_TOKENS):
        text = text.replace(token, f"[{number}]")
    return json.loads(text)


@settings(max_examples=60, deadline=None)
@given(conversations(), st.sampled_from(["chat", "thinking"]))
def test_spelled_control_tokens_make_no_control_segments(messages, mode):
    def controls(some):
        segments = encode_messages(some, thinking_mode=mode).segments
        return [segment.text for segment in segments if segment.is_control]

    assert controls(messages) == controls(unspelled(messages))


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_neighbouring_text_is_one_segment(messages):
    segments = encode_messages(messages).segments
    assert all(left.is_control or right.is_control for left, right in pairwise(segments))
    assert all(segment.text for segment in segments)


def test_control_segments_are_the_template_tokens():
    system = {"role": "system", "content": "s", "tools": [TOOL]}
    segments = encode_messages([system, user("<think>")]).segments
    controls = [segment.text for segment in segments if segment.is_control]
    template = [*[DSML] * 9, THINK, THINK, END_THINK, END_THINK]
    assert controls == [BOS, *template, USER, ASSISTANT, END_THINK]
    assert ("<think>", False) in segments
