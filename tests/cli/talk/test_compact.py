"""/compact at the prompt: a copy that is shorter goes on, and the original stays."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cli.kept.sessions import SessionStore
from dsv4_mlx.chat.turns import Turn
from tests.cli.running import Run, run

LONG = {"text": "<think>hm</think>word one two ", "repeat": 60}
SUMMARY = "<think>What was it?</think>They counted words."


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chat(replies: list[Any], *lines: str, options: tuple[str, ...] = (), **script: Any) -> Run:
    file = Path("script.json")
    file.write_text(json.dumps({"replies": replies, **script}), encoding="utf-8")
    typed = "".join(f"{line}\n" for line in lines)
    return run("--engine", f"fake:{file}", *options, typed=typed)


def kept() -> list[tuple[Turn, ...]]:
    """The turns of every conversation that is kept, the oldest first."""
    store = SessionStore(Path(os.environ["DSV4_HOME"]) / "sessions", kv_budget_bytes=0)
    found = []
    for one in sorted(store.summaries(), key=lambda summary: summary.id):
        log, saved = store.open(one)
        log.close()
        found.append(saved.turns)
    return found


def test_a_shorter_copy_goes_on_and_the_original_stays() -> None:
    done = chat(
        [LONG, SUMMARY, "C.", "D."], "a", "b", "c", "/compact the words", "d", "/branches main", "e"
    )
    assert done.status == 0
    assert "[summarising 1 of 3 turns]" in done.stderr
    assert "a summary stands for 1 turn; /branches main goes back to all of it]" in done.stderr
    original, copy = kept()
    assert [turn.text for turn in original] == ["a", "b", "c", "e"]
    assert [turn.text for turn in copy[1:]] == ["b", "c", "d"]
    assert copy[1:3] == original[1:3]
    assert copy[0].messages[-1]["content"] == "They counted words."
    assert copy[0].text.startswith("[compacted] a\n\n[The first turn of this conversation stood ")


def test_the_copy_is_opened_and_exported_later() -> None:
    chat([LONG, SUMMARY, "C.", "D."], "a", "b", "c", "/rename sky", "/compact", "d")
    done = chat([LONG], "/sessions", "/load sky/compact", "/branches", "/export out.md", "/undo")
    assert "sky/compact: 4 turns" in done.stderr
    text = Path("out.md").read_text()
    assert text.startswith("# sky/compact\n\n## You\n\n[compacted] a\n\n[The first turn ")
    assert "## Answer\n\nThey counted words.\n\n## You\n\nb" in text
    assert kept()[0][0].text == "a"
    # Another copy of a conversation that has a name has another name.
    done = chat([LONG, SUMMARY, "C.", SUMMARY], "/load sky", "/compact", "/sessions")
    assert "sky/compact-2  " in done.stderr


@pytest.mark.parametrize(
    ("first", "reply", "said"),
    [
        (LONG, "", "the model wrote no summary; nothing was changed."),
        (LONG, "<think>only this", "the model wrote no summary; nothing was changed."),
        ("A.", {"text": "word one two ", "repeat": 75}, "a summary takes "),
        (
            LONG,
            {"text": "Look.", "tool_calls": [{"name": "look", "arguments": {}}]},
            "the model called a tool and wrote no summary; nothing was changed.",
        ),
    ],
)
@pytest.mark.parametrize("options", [(), ("--no-save",)])
def test_a_summary_that_fails_changes_nothing(
    first: Any, reply: Any, said: str, options: tuple[str, ...]
) -> None:
    lines = ("a", "b", "c", "/compact", "/branches")
    done = chat([first, reply, "C.", "D."], *lines, options=options)
    assert said in done.stderr
    assert "* main  3 turns  c\n" in done.stderr
    assert "compact  " not in done.stderr
    assert len(kept()) == (not options)


def test_too_little_is_a_sentence() -> None:
    done = chat(["A."], "/compact", "a", "/compact")
    assert "there is nothing to compact yet; send a message first." in done.stderr
    assert "the conversation has 1 turn, and the last one stays as it is." in done.stderr


def test_the_summary_cannot_be_answered_again_edited_or_taken_back() -> None:
    done = chat(
        [LONG, SUMMARY], *"abc", "/compact", "/undo", "/undo", "/undo", "/retry", "/edit 1 x"
    )
    assert done.stderr.count("that turn is the summary of what came before") == 3


def test_a_nearly_full_context_is_said_once() -> None:
    lines = ("a", "b", "c", "/compact", "/branches")
    done = chat([{"text": "word one two ", "repeat": 90}, SUMMARY, "C."], *lines, context=300)
    assert done.stderr.count("/compact makes room]") == 1
    assert "% full; /compact makes room]" in done.stderr


def test_a_setting_compacts_by_itself() -> None:
    home = Path(os.environ["DSV4_HOME"])
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text("auto_compact = true\n")
    done = chat([{"text": "word one two ", "repeat": 80}, SUMMARY], "a", "b", context=300)
    assert "% full]" in done.stderr
    assert "a summary stands for 1 turn" in done.stderr
