"""The file of what was sent before."""

import stat
from pathlib import Path

import pytest

from cli.screen import history
from cli.screen.history import FileHistory


def test_entries_come_back_newest_first_each_once(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    for entry in ("one", "two\nlines", "one"):
        FileHistory(file).store_string(entry)
    assert list(FileHistory(file).load_history_strings()) == ["one", "two\nlines"]


def test_the_file_is_private(tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    FileHistory(file).store_string("secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_bytes(b'"one"\n{"a": 1}\n\xff\xfe\n"to\n12\n"two"\n"torn')
    assert list(FileHistory(file).load_history_strings()) == ["two", "one"]


def test_what_cannot_be_kept_does_not_stop_anybody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    unwritable = FileHistory(tmp_path / "file" / "history")
    unwritable.append_string("x")
    assert list(unwritable.load_history_strings()) == []
    assert unwritable.get_strings() == ["x"]


def test_the_file_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    file = tmp_path / "history"
    for number in range(7):
        FileHistory(file).store_string(str(number))
    assert list(FileHistory(file).load_history_strings()) == ["6", "5", "4"]
    assert file.read_text() == '"4"\n"5"\n"6"\n'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_huge_message_is_left_to_the_conversation(tmp_path: Path) -> None:
    file = tmp_path / "history"
    FileHistory(file).store_string("x" * 100_001)
    assert not file.exists()
