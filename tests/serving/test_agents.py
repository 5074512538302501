"""Agents' conversations: whatever a client does to them, a later turn reads only what is new."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Done, ReasoningDelta, TextDelta, ToolCall
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.scripted.engine import scripted_engine
from dsv4_mlx.scripted.script import Script, ScriptedReply
from dsv4_mlx.serving.events import Collected, ServedEvent
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.service import Service
from tests.serving.clients import HABITS, Habit, Messages, as_sent, bills, drops_reasoning
from tests.serving.served import assert_adds_up, ended, tokenizer

TOOLS = tuple(
    {"name": name, "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}
    for name in ("read", "list")
)
CALLS = (
    {"name": "read", "arguments": {"path": 'a "b".py', "lines": [1, 2.5], "deep": {"x": None}}},
    {"name": "list", "arguments": {"path": "007"}},
)
SCRIPT = Script(
    (
        (ScriptedReply("<think>I look twice. </think>Let me look.\n", CALLS),),
        (ScriptedReply("<think> Once more.\n\n</think>", CALLS[:1]),),
        (ScriptedReply("<think>Enough.</think>  It says **so**.  \n"),),
        (ScriptedReply("<think>A new question.</think>Yes."),),
        (ScriptedReply("<think>Another.</think>Yes."),),
    ),
    chunk=32,
)
SYSTEM = {"role": "system", "content": "You are an agent.\nWork well."}


def service(folder: Path | None = None) -> Service:
    engine = scripted_engine(SCRIPT, tokenizer())
    return Service(
        engine,
        tokenizer(),
        SCRIPT.effort_table,
        folder=folder,
        disk_bytes=1 << 30,
        clock=lambda: 0.0,
    )


def request(messages: Messages, tools: Any = TOOLS, **options: Any) -> GenerationRequest:
    settings = AnswerSettings(Thinking("thinking", "high"), tools=tools, loops="off")
    return GenerationRequest(messages, settings, **options)


def reply(serving: Service, asked: GenerationRequest) -> tuple[dict[str, Any], Done]:
    """The message that a client makes of the events, and the last of them."""
    outlet = Collected()
    serving.serve(asked, outlet)
    while serving.scheduler.step():
        pass
    events = outlet.of()
    assert_adds_up(range(ended(events).usage.prompt_tokens), events)
    return message_of(events), ended(events)


def message_of(events: Sequence[ServedEvent]) -> dict[str, Any]:
    """The reply that events tell, as a client keeps it."""
    calls = [event for event in events if isinstance(event, ToolCall)]
    return {
        "role": "assistant",
        "content": "".join(e.text for e in events if isinstance(e, TextDelta)),
        "reasoning_content": "".join(e.text for e in events if isinstance(e, ReasoningDelta)),
        "tool_calls": [{"id": call.id, **call.to_dict()} for call in calls],
    }


def following(said: dict[str, Any], turn: int) -> Messages:
    """What comes after a reply: the results of its calls, or another question."""
    results: Messages = []
    for call in said["tool_calls"]:
        result = f"{call['function']['name']} says {turn}\n"
        results.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    return results or [{"role": "user", "content": f"And question {turn}?"}]


def trace(
    habits: tuple[Habit, ...], tools: Any = TOOLS, turns: int = 5, folder: Path | None = None
) -> list[Done]:
    """Requests of one conversation: a question with two rounds of tools, then more questions.

    With a `folder` the program begins anew before each of them.
    """
    serving = service(folder)
    messages: Messages = [SYSTEM, {"role": "user", "content": "What is in a.py?"}]
    ends = []
    for turn in range(turns):
        serving = service(folder) if folder else serving
        said, done = reply(serving, request(as_sent(messages, *habits), tools))
        ends.append(done)
        messages += [said, *following(said, turn)]
    return ends


def assert_reads_only_what_is_new(ends: list[Done]) -> None:
    for before, after in pairwise(ends):
        held = before.usage.prompt_tokens + before.usage.completion_tokens
        assert after.usage.cached_tokens == held


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
def test_each_turn_reads_only_what_is_new(habit: Habit) -> None:
    assert_reads_only_what_is_new(trace((habit,)))


@pytest.mark.parametrize("habits", [HABITS[:-1], HABITS[::-2], HABITS[1::3]], ids=len)
def test_habits_do_not_add_up_to_a_miss(habits: tuple[Habit, ...]) -> None:
    assert_reads_only_what_is_new(trace(habits))


def test_without_tools_the_model_forgets_old_reasoning_and_reads_the_answers() -> None:
    ends = trace((), tools=())[2:]
    for before, after in pairwise(ends):
        assert after.usage.cached_tokens == before.usage.prompt_tokens - 1
        assert after.usage.prompt_tokens - after.usage.cached_tokens < 40


def test_the_same_text_is_the_reply_to_the_question_that_stands_before_it() -> None:
    """Turns four and five both say "Yes." with other reasoning, which the client drops."""
    ends = trace((drops_reasoning,), turns=5)
    assert_reads_only_what_is_new(ends)


@pytest.mark.parametrize("habits", [(), (drops_reasoning, bills)], ids=len)
def test_a_restart_before_each_turn_costs_nothing(
    habits: tuple[Habit, ...], tmp_path: Path
) -> None:
    assert_reads_only_what_is_new(trace(habits, folder=tmp_path))


def test_what_is_warmed_is_found_by_the_next_conversation_and_the_next_run(tmp_path: Path) -> None:
    asked = request([SYSTEM, {"role": "user", "content": "One?"}])
    for run in range(2):
        serving = service(tmp_path)
        outlet = Collected()
        serving.warm(asked, outlet)
        while serving.scheduler.step():
            pass
        begins = serving.prompts.write(asked).beginnings[0]
        assert ended(outlet.of()).usage.cached_tokens == (begins + 1 if run else 0)
        _, done = reply(serving, request([SYSTEM, {"role": "user", "content": f"Two {run}?"}]))
        assert done.usage.cached_tokens == begins + 1  # the token that begins a user's turn


def test_a_text_without_a_template_goes_on_as_text() -> None:
    serving = service()
    written = serving.prompts.write(request((), text="Once <｜User｜>"))
    assert tokenizer().decode(written.tokens[1:]) == "Once <｜User｜>"
    assert tokenizer().control_ids["<｜User｜>"] not in written.tokens


def test_an_edited_reply_is_read_as_the_client_has_it() -> None:
    serving = service()
    messages: Messages = [SYSTEM, {"role": "user", "content": "What is in a.py?"}]
    said, first = reply(serving, request(messages))
    for changed in (
        {**said, "content": "Let me see."},
        {**said, "reasoning_content": "Something else."},
        {**said, "tool_calls": _with_arguments(said["tool_calls"], path="b.py")},
    ):
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "x"}
            for call in said["tool_calls"]
        ]
        sent = request([*messages, changed, *results])
        text = tokenizer().decode(serving.prompts.write(sent).tokens)
        assert (changed["content"] + "\n\n<｜DSML｜tool_calls>") in text
        assert changed["reasoning_content"] + "</think>" in text
        assert json.loads(changed["tool_calls"][0]["function"]["arguments"])["path"] in text
    assert first.usage.cached_tokens == 0


def _with_arguments(calls: list[dict[str, Any]], **changed: Any) -> list[dict[str, Any]]:
    first, *others = calls
    arguments = json.loads(first["function"]["arguments"]) | changed
    function = {**first["function"], "arguments": json.dumps(arguments)}
    return [{**first, "function": function}, *others]


def test_people_do_not_share_what_was_said() -> None:
    serving = service()
    messages: Messages = [SYSTEM, {"role": "user", "content": "What is in a.py?"}]
    said, done = reply(serving, request(messages, owner="one"))
    sent = as_sent([*messages, said, {"role": "user", "content": "So?"}], drops_reasoning)
    mine = serving.prompts.write(request(sent, owner="one"))
    yours = serving.prompts.write(request(sent, owner="two"))
    held = done.usage.prompt_tokens + done.usage.completion_tokens
    assert serving.timelines.look(mine.tokens, "one").found == held
    assert "I look twice" in tokenizer().decode(mine.tokens)
    assert "I look twice" not in tokenizer().decode(yours.tokens)


def test_an_answer_that_was_begun_goes_on_as_an_answer() -> None:
    serving = service()
    begun = {"role": "assistant", "content": "It says"}
    asked = request([{"role": "user", "content": "What?"}, begun])
    written = serving.prompts.write(asked)
    assert tokenizer().decode(written.tokens).endswith("</think>It says")
    assert written.goes_on


def test_the_next_conversation_shares_tools_and_system() -> None:
    serving = service()
    for question in ("One?", "Another one?", "Third?"):
        _, done = reply(serving, request([SYSTEM, {"role": "user", "content": question}]))
    written = serving.prompts.write(request([SYSTEM, {"role": "user", "content": "Fourth?"}]))
    assert done.usage.cached_tokens == written.beginnings[0] == written.boundaries[0] > 100
