"""The file of what was sent before."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.show.screen import history
from cli.show.screen.history import FileHistory
from cli.show.screen.paste import Pastes
from cli.show.screen.quotes import submitted
from cli.show.surface import Verbatim


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


def test_what_was_pasted_comes_back_as_pasted(tmp_path: Path) -> None:
    file = tmp_path / "history"
    pastes, later = Pastes(), Pastes()
    large = "\n".join("line" for _ in range(20))
    for text in (
        pastes.take("/quit"),
        f"see {pastes.take(large)} and {pastes.take(large)}!",
        "/new",
    ):
        FileHistory(file, parts=pastes.parts).store_string(text)
    entries = list(FileHistory(file, restored=later.restored).load_history_strings())
    sent = [submitted(entry, later) for entry in entries]
    assert sent == ["/new", f"see {large} and {large}!", "/quit"]
    assert [isinstance(text, Verbatim) for text in sent] == [False, True, True]
    assert later.labels(entries[1]) == "see [pasted 20 lines] and [pasted 20 lines]!"


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "history"
    damage = b'[1]\n[{"pasted": 2}]\n[{"pasted": "x", "y": 1}]\n' + b"[" * 100_000
    file.write_bytes(b'"one"\n{"a": 1}\n\xff\xfe\n"to\n12\n' + damage + b'\n"two"\n"torn')
    assert list(FileHistory(file).load_history_strings()) == ["two", "one"]


DEEP = 100_000
DAMAGES = {
    "lists": b"[" * DEEP,
    "closed lists": b"[" * DEEP + b"]" * DEEP,
    "tables": b'{"a":' * DEEP,
    "a long number": b"9" * 10_000,
    "a number beyond a double": b"1e999",
    "not a number": b"NaN",
    "half a pair": b'"\\ud800"',
    "half a pair, the other": b'"\\udc00 \\ud800"',
    "bytes": bytes(range(256)).replace(b"\n", b"").replace(b"\r", b""),
    "other text": "é".encode("latin-1"),
    "zeros": bytes(5_000),
    "no text": b"[1, 2]",
    "null": b"null",
    "a table": b'{"a": 1}',
    "two texts": b'"a" "b"',
    "open text": b'"a',
    "escape": b'"\\x41"',
    "end": b"]" * DEEP,
    "a raw control character": b'"a\x1b[2J"',
    "commas": b"[" + b"," * DEEP,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_history_is_set_aside_with_what_can_be_read_kept(
    tmp_path: Path, damage: bytes
) -> None:
    file = tmp_path / "history"
    content = b'"one"\n' + damage + b'\n"two"\n'
    file.write_bytes(content)
    file.chmod(0o640)
    for _ in range(2):
        assert list(FileHistory(file).load_history_strings()) == ["two", "one"]
    assert file.read_bytes() == b'"one"\n"two"\n'
    assert file.with_name("history.damaged").read_bytes() == content


@pytest.mark.parametrize("content", [b'\xef\xbb\xbf"one"\r\n"two"\r\n', b'\n"one"\n\n"two"'])
def test_marks_and_line_ends_of_other_systems_are_no_damage(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "history"
    file.write_bytes(content)
    assert list(FileHistory(file).load_history_strings()) == ["two", "one"]
    assert file.read_bytes() == content


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_history(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "history")
    assert list(FileHistory(tmp_path / "history").load_history_strings()) == []


def test_without_a_home_the_history_lives_in_memory() -> None:
    history = FileHistory(None)
    history.append_string("x")
    assert list(history.load_history_strings()) == []
    assert history.get_strings() == ["x"]


def test_a_history_that_is_cut_keeps_its_mode_and_stays_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "KEPT", 1)
    (tmp_path / "real").write_bytes(b'"1"\n"2"\n"3"\n')
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "history").symlink_to("real")
    assert list(FileHistory(tmp_path / "history").load_history_strings()) == ["3"]
    assert (tmp_path / "history").is_symlink()
    assert (tmp_path / "real").read_bytes() == b'"3"\n'
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


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
