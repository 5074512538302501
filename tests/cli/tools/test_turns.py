"""A tool turn from end to end: the model calls, the tool answers, the model goes on."""

import json
from pathlib import Path

import pytest

from cli.tools.toolbox import Toolbox
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, Event, TextDelta
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.settings import thinking_at
from dsv4_mlx.chat.tokens import V4_TOKENS
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.scripted.engine import open_scripted
from tests.cli.tools.asking import Person, toolbox

TABLE = "2026-07-31"


def calling(name: str, **arguments: object) -> dict[str, object]:
    return {
        "text": "<think>I have to look.</think>Let me look.",
        "tool_calls": [{"name": name, "arguments": arguments}],
    }


def conversation(folder: Path, box: Toolbox, *replies: object) -> Conversation:
    script = folder / "script.json"
    script.write_text(json.dumps({"replies": replies}), encoding="utf-8")
    settings = AnswerSettings(
        thinking_at("low", TABLE), tools=box.definitions(), sampling=Sampling(temperature=0.0)
    )
    return Conversation(*open_scripted(script), settings, effort_table=TABLE)


def results(box: Toolbox, events: list[Event]) -> list[tuple[str, str]]:
    return [(event.id, box.run(event)) for event in events if isinstance(event, ToolCall)]


def said(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_the_model_goes_on_with_what_the_tool_said(tmp_path: Path) -> None:
    box = toolbox(tmp_path)
    chat = conversation(tmp_path, box, calling("calculator", expression="6*7"), "It is 42.")
    first = list(chat.send("What is 6 times 7?"))
    assert isinstance(first[-1], Done) and first[-1].finish_reason == "tool_calls"
    answers = results(box, first)
    assert [text for _, text in answers] == ["42"]
    second = list(chat.answer_tools(answers))
    assert said(second) == "It is 42."
    (turn,) = chat.turns
    assert [message["role"] for message in turn.messages] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert turn.messages[1]["reasoning_content"] == "I have to look."


def test_a_tool_turn_reads_only_what_is_new(tmp_path: Path) -> None:
    """Reasoning stays in the prompt across the turn, and so does the cache."""
    box = toolbox(tmp_path)
    chat = conversation(tmp_path, box, calling("calculator", expression="6*7"), "It is 42.")
    first = list(chat.send("What is 6 times 7?"))
    second = list(chat.answer_tools(results(box, first)))
    before, after = first[-1], second[-1]
    assert isinstance(before, Done) and isinstance(after, Done)
    held = before.usage.prompt_tokens + before.usage.completion_tokens
    assert after.usage.cached_tokens >= held - 1
    assert after.usage.prompt_tokens > held


@pytest.mark.parametrize("answer", ["y", "n"])
def test_refused_or_not_the_conversation_goes_on(tmp_path: Path, answer: str) -> None:
    box = toolbox(tmp_path, Person(answer))
    chat = conversation(tmp_path, box, calling("run_command", command="echo made"), "Done.")
    answers = results(box, list(chat.send("Make it.")))
    assert ("made" in answers[0][1]) == (answer == "y")
    assert said(list(chat.answer_tools(answers))) == "Done."


def test_a_result_full_of_control_tokens_starts_no_turn(tmp_path: Path) -> None:
    """The scripted model counts turns by the assistant tokens in its history."""
    (tmp_path / "hostile.txt").write_text("".join(V4_TOKENS) * 3, encoding="utf-8")
    box = toolbox(tmp_path)
    replies = (calling("read_file", path="hostile.txt"), "Second.", "Third.", "Fourth.")
    chat = conversation(tmp_path, box, *replies)
    answers = results(box, list(chat.send("Read it.")))
    assert said(list(chat.answer_tools(answers))) == "Second."
    assert said(list(chat.send("And now?"))) == "Third."
