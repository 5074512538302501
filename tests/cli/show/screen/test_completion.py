"""What Tab offers for what is typed."""

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from cli.show.screen.completion import Completions, PromptCompleter, paths

COMMANDS = {"undo": "take back", "unfold": "show it", "think": "set the level"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("src/app.py", "src/apt.txt", "two words/x y.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def offered(folder: Path, typed: str) -> list[str]:
    """The input as each candidate would leave it."""

    def arguments(command: str, typed: str) -> list[str]:
        return [name for name in ("high", "max") if command == "think" and name.startswith(typed)]

    completer = PromptCompleter(Completions(COMMANDS, folder), arguments)
    event = CompleteEvent(completion_requested=True)
    found = completer.get_completions(Document(typed), event)
    return [typed[: len(typed) + one.start_position] + one.text for one in found]


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("/un", ["/undo", "/unfold"]),
        ("/think ", ["/think high", "/think max"]),
        ("/think m", ["/think max"]),
        ("/think max", []),
        ("/nothing x", []),
        ("un", []),
        (" /un", []),
        ("/un\nx", []),
        ("see @s", ["see @src/"]),
        ("see @src/ap", ["see @src/app.py", "see @src/apt.txt"]),
        ("@two", ['@"two words/']),
        ('@"two words/', ['@"two words/x y.txt"']),
        ("@.h", ["@.hidden"]),
        ("@", ["@src/", '@"two words/']),
        ("me@s", []),
        ("@none/", []),
        ("/think @s", ["/think @src/"]),
        ("!cat src/app", ["!cat src/app.py"]),
    ],
)
def test_candidates(folder: Path, typed: str, wanted: list[str]) -> None:
    assert offered(folder, typed) == wanted


def test_a_home_folder_keeps_its_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert paths("~/s", Path("/")) == ["~/src/"]
    assert paths("~nobody-of-that-name/", folder) == []


def test_names_that_cannot_be_typed_are_not_offered(folder: Path) -> None:
    for name in ("bad\nname", "bad\x1b[2J", 'bad"quote'):
        (folder / name).write_text("")
    assert paths("bad", folder) == []
