"""`--engine fake:SCRIPT.json`: what a script makes the model say, and what a wrong script says."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.conversation import Conversation
from dsv4_mlx.chat.events import Done, Event, Progress, ReasoningDelta, TextDelta
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.chat.settings import thinking_at
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import BackendError, UsageError
from dsv4_mlx.scripted.engine import ScriptedModel, open_scripted, scripted_engine
from dsv4_mlx.scripted.script import ScriptedReply, read_script

TABLE = "2026-07-31"


def written(folder: Path, content: object) -> Path:
    path = folder / "script.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def conversation(
    folder: Path, *replies: object, level: str = "low", seed: int = 0, **keys: object
) -> Conversation:
    engine, tokenizer = open_scripted(written(folder, {"replies": replies, **keys}))
    settings = AnswerSettings(thinking_at(level, TABLE), sampling=Sampling(seed=seed))
    return Conversation(engine, tokenizer, settings, effort_table=TABLE)


def said(events: Sequence[Event]) -> tuple[str, str]:
    """Reasoning and answer."""
    reasoning = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
    return reasoning, "".join(event.text for event in events if isinstance(event, TextDelta))


def test_replies_come_turn_after_turn_and_then_from_the_start(tmp_path: Path) -> None:
    chat = conversation(tmp_path, "<think>A sum.</think>Four.", "Five.")
    heard = [said(list(chat.send("x"))) for _ in range(3)]
    assert heard == [("A sum.", "Four."), ("", "Five."), ("A sum.", "Four.")]


def test_a_level_without_reasoning_leaves_it_out(tmp_path: Path) -> None:
    chat = conversation(tmp_path, "<think>A sum.</think>Four.", level="none")
    assert said(list(chat.send("x"))) == ("", "Four.")


def test_a_call_arrives_as_a_call(tmp_path: Path) -> None:
    call = {"name": "list_folder", "arguments": {"path": "a b", "depth": 2}}
    chat = conversation(tmp_path, {"text": "Let me look.", "tool_calls": [call]})
    events = list(chat.send("x"))
    assert said(events) == ("", "Let me look.")
    (found,) = [event for event in events if isinstance(event, ToolCall)]
    assert (found.name, json.loads(found.arguments)) == (call["name"], call["arguments"])


def test_repeated_text_is_said_so_often(tmp_path: Path) -> None:
    chat = conversation(tmp_path, {"text": "<think>Hm. </think>Go on. ", "repeat": 40})
    assert said(list(chat.send("x"))) == ("Hm. ", "Go on. " * 40)


def test_an_open_thought_is_repeated_and_never_answered(tmp_path: Path) -> None:
    chat = conversation(tmp_path, {"text": "<think>Hm. ", "repeat": 3})
    assert said(list(chat.send("x"))) == ("Hm. " * 3, "")


def test_an_error_comes_once_behind_all_the_text(tmp_path: Path) -> None:
    chat = conversation(tmp_path, {"text": "All well.", "error": "the device went away."})
    events = []
    with pytest.raises(BackendError, match=r"^the device went away\.$"):
        for event in chat.send("x"):
            events.append(event)
    assert said(events) == ("", "All well.")
    assert said(list(chat.send("x")))[1].rstrip() == "All well."


def test_a_crash_is_no_error_of_ours(tmp_path: Path) -> None:
    chat = conversation(tmp_path, {"text": "All well.", "crash": "[METAL] gone"})
    with pytest.raises(RuntimeError, match=r"\[METAL\] gone"):
        list(chat.send("x"))


def test_luck_chooses_among_alternatives(tmp_path: Path) -> None:
    answers = {
        said(list(conversation(tmp_path, ["Left.", "Right."], seed=seed).send("x")))
        for seed in range(12)
    }
    assert answers == {("", "Left."), ("", "Right.")}


def test_an_early_end_of_reasoning_brings_the_answer(tmp_path: Path) -> None:
    engine, tokenizer = open_scripted(
        written(tmp_path, {"replies": ["<think>a b c d</think>Four."]})
    )
    session = engine.session()
    controls = tokenizer.control_ids
    end = controls["</think>"]
    session.sync([0, controls["<｜Assistant｜>"], controls["<think>"], *tokenizer.encode("a"), end])
    assert tokenizer.decode([token.id for token in session.stream()][:-1]) == "Four."


def test_an_early_end_of_reasoning_chooses_one_answer(tmp_path: Path) -> None:
    replies = ["<think>a b</think>Left it is.", "<think>a b c d</think>Right it is."]
    engine, tokenizer = open_scripted(written(tmp_path, {"replies": [replies]}))
    session = engine.session()
    controls = tokenizer.control_ids
    start = [0, controls["<｜Assistant｜>"], controls["<think>"], *tokenizer.encode("a")]
    session.sync([*start, controls["</think>"]])
    text = tokenizer.decode([token.id for token in session.stream(temperature=1.0, seed=3)][:-1])
    assert text == "Left it is."


def test_timelines_of_one_engine_do_not_mix(tmp_path: Path) -> None:
    """One session speaks, another longer one does, and each says its own turn."""
    replies = ["The first of all of them.", "Second to none of them."]
    engine, tokenizer = open_scripted(written(tmp_path, {"replies": replies}))
    controls = tokenizer.control_ids
    opened = [controls["<｜Assistant｜>"], controls["</think>"]]
    sessions = [engine.session(), engine.session()]
    sessions[0].sync([0, *opened])
    sessions[1].sync([0, *opened, *tokenizer.encode("more"), *opened])
    streams = [session.stream() for session in sessions]
    said = [[next(stream).id for stream in streams] for _ in range(4)]
    texts = [tokenizer.decode(ids) for ids in zip(*said, strict=True)]
    assert all(reply.startswith(text) for reply, text in zip(replies, texts, strict=True))


def test_prompts_are_read_in_chunks_of_the_asked_size(tmp_path: Path) -> None:
    chat = conversation(tmp_path, "Yes.", chunk=50)
    progress = [event.done for event in chat.send("a b " * 60) if isinstance(event, Progress)]
    assert progress[:3] == [0, 50, 100]


def test_the_context_ends_where_the_script_says(tmp_path: Path) -> None:
    chat = conversation(tmp_path, {"text": "on and ", "repeat": 500}, context=100)
    done = list(chat.send("x"))[-1]
    assert isinstance(done, Done)
    assert done.finish_reason == "length"
    assert read_script(tmp_path / "script.json").settings.context == 100


def test_delays_are_those_of_the_reply_and_of_a_chunk(tmp_path: Path) -> None:
    content = {"replies": ["a"], "prefill_ms": 8, "chunk": 4}
    script = read_script(written(tmp_path, content))
    model = scripted_engine(script, open_scripted(tmp_path / "script.json")[1]).model
    assert isinstance(model, ScriptedModel)
    assert model._delay_ms(4, None) == 8
    assert model._delay_ms(2, None) == 4
    assert model._delay_ms(1, ScriptedReply("a", delay_ms=3)) == 3


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "the script must be an object, found []."),
        ({}, "replies must be a list of at least one reply, found null."),
        ({"replies": ["a", 3]}, "replies[1] must be a text or an object, found 3."),
        ({"replies": [["a", {"delay_ms": -1}]]}, "replies[0][1].delay_ms must be a number of"),
        ({"replies": [{"repeat": True}]}, "replies[0].repeat must be a whole number from 1 on"),
        ({"replies": [{"tool_calls": [{"name": "x"}]}]}, "replies[0].tool_calls must be a list"),
        ({"replies": [{"says": "a"}]}, "replies[0] has the unknown key 'says'; the keys are text,"),
        ({"replies": ["a"], "context": 3}, "context must be a whole number from 16 on, found 3."),
        ({"replies": ["a"], "effort_table": "x"}, "effort_table must be one of 2026-04,"),
    ],
)
def test_a_wrong_script_is_one_sentence(tmp_path: Path, content: object, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        read_script(written(tmp_path, content))
    assert str(error.value).startswith(f"{tmp_path / 'script.json'}: {sentence}")


def test_a_script_that_is_no_json_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_bytes(b'{"replies": [\xff]}')
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        read_script(tmp_path / "script.json")
    with pytest.raises(UsageError, match="No such file"):
        read_script(tmp_path / "missing.json")
