"""Drafts: kept while they are typed, offered once, to the program that can use them."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli.show.screen.completion import Completions
from cli.show.screen.draft_keeper import DraftKeeper
from cli.show.screen.drafts import Drafts
from cli.show.screen.paste import Pastes
from cli.show.screen.prompt import PromptInput

HERE = Path("/somewhere")


def lost(folder: Path, text: object, workplace: Path = HERE, conversation: str = "") -> None:
    """A draft of a program that is gone."""
    drafts = Drafts(folder, workplace)
    drafts.conversation = lambda: conversation
    drafts.keep(text)  # type: ignore[arg-type]
    drafts.close()


def test_a_draft_is_taken_once_and_is_there_until_it_is_sent(tmp_path: Path) -> None:
    lost(tmp_path / "drafts", "half a thou")
    first, second = (Drafts(tmp_path / "drafts", HERE) for _ in range(2))
    assert (first.take(), second.take()) == ("half a thou", "")
    first.close()  # lost again
    assert second.take() == "half a thou"
    second.keep("")
    assert list((tmp_path / "drafts").iterdir()) == []


def test_the_newest_state_is_kept_privately(tmp_path: Path) -> None:
    drafts = Drafts(tmp_path / "drafts", HERE)
    for text in ("a", "a longer one", "sho", ["x ", {"pasted": "y"}]):
        drafts.keep(text)  # type: ignore[arg-type]
    (file,) = (tmp_path / "drafts").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    drafts.close()
    assert Drafts(tmp_path / "drafts", HERE).take() == ["x ", {"pasted": "y"}]


def test_a_running_program_keeps_its_own(tmp_path: Path) -> None:
    running = Drafts(tmp_path, HERE)
    running.keep("mine")
    assert Drafts(tmp_path, HERE).take() == ""


@pytest.mark.parametrize(
    ("workplace", "now", "is_offered"),
    [
        (HERE, "", True),
        (HERE, "one", True),
        (HERE, "other", False),
        (Path("/elsewhere"), "", False),
        (Path(os.fsdecode(b"/caf\xe9")), "", False),
    ],
)
def test_a_draft_belongs_to_its_folder_and_conversation(
    tmp_path: Path, workplace: Path, now: str, is_offered: bool
) -> None:
    lost(tmp_path, "text", conversation="one")
    drafts = Drafts(tmp_path, workplace)
    drafts.conversation = lambda: now
    assert bool(drafts.take()) is is_offered
    assert bool(Drafts(tmp_path, HERE).take()) is not is_offered  # taken, or still there


def test_without_locks_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    lost(tmp_path, "ours")
    assert Drafts(tmp_path, HERE).take() == ""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    lost(tmp_path, "of one that ended")
    assert Drafts(tmp_path, HERE).take() == "of one that ended"


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[" * 9_999, b"{}\n", b'{"folder": 1, "input": 2}\n', b"\xff\n", b"[1]"]
)
def test_damage_is_nobodys_draft(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    os.mkfifo(tmp_path / "b.json")
    lost(tmp_path, "good")
    assert Drafts(tmp_path, HERE).take() == "good"


def test_what_cannot_be_kept_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "drafts", None):
        drafts = Drafts(folder, HERE)
        drafts.keep("text")
        assert drafts.take() == ""


@pytest.mark.parametrize(
    "text", ["one\ntwo", "  spaces \n", "\udcff byte", "/typed", "é 你好 😀", '"""open\nblock']
)
def test_an_input_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    pastes, later = Pastes(), Pastes()
    pasted = "\n".join("line" for _ in range(30))
    raw = f"{text}{pastes.take(pasted)}{pastes.take('/quit')}"
    lost(tmp_path, pastes.parts(raw))
    restored = later.restored(Drafts(tmp_path, HERE).take())
    assert later.labels(restored) == f"{text}[pasted 30 lines]/quit".replace("\udcff", "\ufffd")
    assert later.expand(restored) == f"{text}{pasted}/quit".replace("\udcff", "\ufffd")


class Loop:
    """An event loop whose timers go off when a test says so."""

    def __init__(self) -> None:
        self.due: list = []

    def call_later(self, seconds: float, action):
        self.due.append(action)
        return self

    def cancel(self) -> None:
        self.due.clear()


@pytest.mark.parametrize("typed_ahead", [False, True])
def test_what_stands_in_the_input_stays_there(tmp_path: Path, typed_ahead: bool) -> None:
    lost(tmp_path / "drafts", "an old draft")
    prompt = PromptInput(tmp_path / "history", Completions())
    if not typed_ahead:
        prompt.buffer.text = "prefilled"
    told: list[str] = []
    keeper = DraftKeeper(prompt, Drafts(tmp_path / "drafts", HERE), told.append)
    keeper.begin(Loop(), typed_ahead=typed_ahead)  # type: ignore[arg-type]
    assert prompt.buffer.text == ("" if typed_ahead else "prefilled")
    assert prompt.buffer.history.get_strings() == ["an old draft"]
    assert told == ["[a draft from before is in the history: Up brings it]"]
    keeper.end()


def test_the_input_is_written_soon_and_removed_once_it_is_sent(tmp_path: Path) -> None:
    prompt, loop = PromptInput(None, Completions()), Loop()
    keeper = DraftKeeper(prompt, Drafts(tmp_path, HERE), print)
    keeper.begin(loop, typed_ahead=False)  # type: ignore[arg-type]
    prompt.buffer.text = "half"
    prompt.buffer.text = "half a thou"
    (write,) = loop.due
    write()
    keeper.keep_now()
    assert b"half a thou" in next(tmp_path.iterdir()).read_bytes()
    prompt.submit()
    assert prompt.submissions.next() == "half a thou"
    keeper.end()
    assert list(tmp_path.iterdir()) == []
