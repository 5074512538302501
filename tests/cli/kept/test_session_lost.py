"""Session files that are lost while they are open, and disks that lack something: nothing is lost,
and it is said once."""

import errno
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.kept.branch import Branch
from cli.kept.keeping import Keeping
from cli.kept.session_log import SessionLog
from cli.kept.session_replay import SessionError
from cli.kept.sessions import Saved, SessionStore
from dsv4_mlx.files.file_systems import FileSystem
from tests.cli.kept_turns import begun, store, texts, turn
from tests.files.lacking import EVERY, NO_LOCKS, lacking, named, refused


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def sessions(tmp_path: Path, told: list[str]) -> SessionStore:
    return store(tmp_path, files=FileSystem(told.append))


def reopened(folder: Path, name: str = "") -> Saved:
    """As another program reads it."""
    other = store(folder)
    log, saved = other.open(other.find(name))
    log.close()
    assert saved.notes == ()
    return saved


# Lost while open


def folder_removed(log: SessionLog) -> None:
    shutil.rmtree(log.path.parent)


def home_removed(log: SessionLog) -> None:
    shutil.rmtree(log.path.parent.parent)


def file_removed(log: SessionLog) -> None:
    log.path.unlink()


def moved_away(log: SessionLog) -> None:
    log.path.rename(log.path.parent.parent / "elsewhere")


def folder_renamed(log: SessionLog) -> None:
    log.path.parent.rename(log.path.parent.with_name("old"))


def older_copy_put_back(log: SessionLog) -> None:
    """As a program does that synchronises folders."""
    copy = log.path.with_name("copy")
    copy.write_bytes(log.path.read_bytes().splitlines(keepends=True)[0])
    os.replace(copy, log.path)


def written_by_another(log: SessionLog) -> None:
    with open(log.path, "ab") as file:
        file.write(b"a line of another program\n")


def emptied(log: SessionLog) -> None:
    os.truncate(log.path, 0)


LOSSES = (folder_removed, home_removed, file_removed, moved_away, folder_renamed,
          older_copy_put_back, written_by_another, emptied)  # fmt: skip


def a_question(log: SessionLog) -> None:
    log.begin_turn("three")


def an_answer(log: SessionLog) -> None:
    log.add_turn(turn("three"))


def another_answer(log: SessionLog) -> None:
    log.add_turn(turn("three"), keep=1)


WRITES = (a_question, an_answer, another_answer)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("lose", LOSSES)
def test_what_was_said_is_written_anew(
    sessions: SessionStore,
    told: list[str],
    tmp_path: Path,
    lose: Callable[[SessionLog], None],
    write: Callable[[SessionLog], None],
) -> None:
    home = tmp_path / "home"
    sessions = store(home, files=FileSystem(told.append))
    with begun(sessions, "one", "two", name="mine") as log:
        log.settings({"think": "high"})
        lose(log)
        there = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        write(log)
        assert len(told) == 1 and str(home) in told[0]
        log.add_turn(turn("four"))
        assert len(told) == 1
    saved = reopened(home, log.id)
    first = ["one"] if write is another_answer else ["one", "two"]
    three = [] if write is a_question else ["three"]
    assert texts(saved) == [*first, *three, "four"]
    assert (saved.model, saved.settings) == ("a model", {"think": "high"})
    for path, content in there.items():
        assert path.read_bytes() == content, "what others wrote or moved stays as it is"
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) & 0o700 == 0o700


def test_a_forgotten_question_is_written_anew_too(sessions: SessionStore, tmp_path: Path) -> None:
    log = begun(sessions, "one", name="mine")
    log.begin_turn("two")
    log.path.unlink()
    log.settings({"think": "high"})
    log.close()
    saved = reopened(tmp_path, "mine")
    assert (texts(saved), saved.unanswered) == (["one"], "two")


def test_a_folder_that_comes_back_gets_everything(
    sessions: SessionStore, told: list[str], tmp_path: Path
) -> None:
    log = begun(sessions, "one")
    shutil.rmtree(log.path.parent)
    log.path.parent.write_text("no folder")
    for number in range(3):
        with pytest.raises(SessionError, match="is not kept until that changes") as error:
            log.begin_turn("two")
        assert error.value.again == (number > 0)
    log.path.parent.unlink()
    log.add_turn(turn("two"))
    log.close()
    assert texts(reopened(tmp_path)) == ["one", "two"]


def test_what_became_of_a_file_is_told_once_it_is_written_anew(
    sessions: SessionStore, told: list[str], tmp_path: Path
) -> None:
    log = begun(sessions, "one")
    shutil.rmtree(log.path.parent)
    log.path.parent.write_text("no folder")
    with pytest.raises(SessionError, match="is not kept until that changes"):
        log.begin_turn("two")
    assert told == []
    log.path.parent.unlink()
    log.begin_turn("two")
    assert len(told) == 1 and "was removed; the conversation is written there again" in told[0]
    log.close()


def test_what_is_not_kept_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "sessions").write_text("no folder")
    notes: list[str] = []
    failures: list[str] = []
    keeping = Keeping(store(tmp_path), notes.append, failures.append)
    log = keeping.log(Branch("main"), "a model", {})
    assert log is not None
    for _ in range(3):
        keeping.write(lambda: log.begin_turn("one"))
        keeping.write(lambda: log.settings({}))
        keeping.write(lambda: log.add_turn(turn("one")))
    assert (notes, len(failures)) == ([], 1)
    (tmp_path / "sessions").unlink()
    keeping.write(lambda: log.add_turn(turn("one")))
    log.close()
    assert texts(reopened(tmp_path)) == ["one"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_session_that_may_only_be_read_goes_on_in_another_file(
    sessions: SessionStore,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    begun(sessions, "one", name="mine").close()
    (path,) = (tmp_path / "sessions").iterdir()
    before = path.read_bytes()
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    refused(monkeypatch, os, "open", number, lambda name, how, *_, **__: how == flags)
    log, saved = sessions.open(sessions.find("mine"))
    assert texts(saved) == ["one"]
    log.add_turn(turn("two"))
    log.close()
    assert path.read_bytes() == before
    assert len(told) == 1 and "may only be read" in told[0] and log.id in told[0]
    monkeypatch.undo()
    assert texts(reopened(tmp_path, log.id)) == ["one", "two"]


# File systems that lack something


@pytest.mark.parametrize("failing", EVERY, ids=named)
def test_whatever_is_missing_a_session_is_kept(
    failing: tuple[str, int],
    sessions: SessionStore,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking(monkeypatch, *failing)
    with begun(sessions, "one", "two", name="mine") as log:
        log.rewind(1)
    with open(log.path, "ab") as file:
        file.write(b"damage\n")
    log, saved = sessions.open(sessions.find("mine"))
    assert texts(saved) == ["one"] and len(saved.notes) == 1
    log.add_turn(turn("three"))
    log.close()
    assert log.path.with_name(f"{log.path.name}.damaged").read_bytes().endswith(b"damage\n")
    assert texts(reopened(tmp_path, "mine")) == ["one", "three"]
    sessions.evict()
    sessions.delete(sessions.find("mine"))
    assert len(told) <= 1


@pytest.mark.parametrize("failing", NO_LOCKS, ids=named)
def test_without_locks_no_program_writes_over_another(
    failing: tuple[str, int],
    sessions: SessionStore,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking(monkeypatch, *failing)
    mine = begun(sessions, "one", name="mine")
    with pytest.raises(SessionError, match="is open, here or in another program"):
        sessions.open(sessions.find("mine"))
    others = store(tmp_path)
    theirs, _ = others.open(others.find("mine"))
    chance = random.Random(failing[1])
    said: dict[str, list[str]] = {"mine": ["one"], "theirs": ["one"]}
    for number in range(8):
        who, log = chance.choice((("mine", mine), ("theirs", theirs)))
        log.add_turn(turn(f"{who} {number}"))
        said[who].append(f"{who} {number}")
    mine.close()
    theirs.close()
    monkeypatch.undo()
    assert texts(reopened(tmp_path, mine.id)) == said["mine"]
    assert texts(reopened(tmp_path, theirs.id)) == said["theirs"]
    assert "has no locks" in told[0]


def test_a_file_system_that_numbers_files_anew_is_no_loss(
    sessions: SessionStore, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = begun(sessions, "one")
    monkeypatch.setattr(os.path, "samestat", lambda one, other: False)
    log.add_turn(turn("two"))
    log.close()
    assert told == []
    assert texts(sessions.open(sessions.newest())[1]) == ["one", "two"]


@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
def test_a_file_that_went_through_another_system_is_read(
    sessions: SessionStore, tmp_path: Path, ends: bytes, mark: bytes
) -> None:
    with begun(sessions, "one", name="mine") as log:
        pass
    log.path.write_bytes(mark + log.path.read_bytes().replace(b"\n", ends))
    again, saved = sessions.open(sessions.find("mine"))
    assert texts(saved) == ["one"] and saved.notes == ()
    again.add_turn(turn("two"))
    again.close()
    assert texts(reopened(tmp_path, "mine")) == ["one", "two"]
