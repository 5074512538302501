"""Sessions on disk: what is kept, found, listed, locked and evicted."""

import json
import os
import stat
from pathlib import Path

import pytest

from cli.attachments import expand
from cli.kept.session_replay import SessionError
from cli.kept.sessions import SessionStore
from dsv4_mlx.errors import UsageError
from tests.cli.kept_turns import Clock, begun, store, texts, turn


def reopened(sessions: SessionStore, name: str = ""):
    log, saved = sessions.open(sessions.find(name))
    log.close()
    return saved


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "sessions").iterdir()}


# What is kept


def test_turns_settings_and_name_come_back(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    with begun(sessions, "one", "two\nlines \x1b[2J é \U0001f600", name="mine") as log:
        log.settings({"think": "high", "temperature": 0.5})
        log.settings({"temperature": None})
    saved = reopened(store(tmp_path), "mine")
    assert saved.turns == (turn("one"), turn("two\nlines \x1b[2J é \U0001f600"))
    assert saved.settings == {"think": "high", "temperature": None}
    assert (saved.name, saved.model, saved.unanswered, saved.notes) == ("mine", "a model", None, ())


def test_a_message_is_kept_before_its_answer(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    with begun(sessions, "one") as log:
        log.begin_turn("two")
    saved = reopened(sessions)
    assert (texts(saved), saved.unanswered) == (["one"], "two")


def test_half_a_surrogate_pair_does_not_damage_the_file(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    begun(sessions).begin_turn("a\ud800b \\ud800")
    saved = reopened(sessions)
    assert (saved.unanswered, saved.notes) == ("a\ufffdb \\ud800", ())


def test_a_rewind_drops_the_turns_behind(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    with begun(sessions, "one", "two", "three") as log:
        log.rewind(1)
        log.add_turn(turn("other"))
    assert texts(reopened(sessions)) == ["one", "other"]


def test_an_answer_replaces_others_in_one_line(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    with begun(sessions, "one", "two", "three") as log:
        before = log.path.read_bytes()
        log.add_turn(turn("two", "No."), keep=1)
        assert log.path.read_bytes().removeprefix(before).count(b"\n") == 1
    assert reopened(sessions).turns == (turn("one"), turn("two", "No."))


def test_more_turns_than_there_are_cannot_be_kept(tmp_path: Path) -> None:
    log = begun(store(tmp_path), "one")
    with pytest.raises(UsageError, match="expected 0 to 1 turns"):
        log.rewind(2)


def test_nothing_said_leaves_nothing(tmp_path: Path) -> None:
    with store(tmp_path).create("a model", name="mine") as log:
        log.settings({"think": "high"})
    assert not (tmp_path / "sessions").exists()


def test_settings_that_stay_write_nothing(tmp_path: Path) -> None:
    with begun(store(tmp_path), "one") as log:
        log.settings({"think": "high"})
        size = log.path.stat().st_size
        log.settings({"think": "high"})
        assert log.path.stat().st_size == size


def test_going_on_appends(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    begun(sessions, "one").close()
    log, _ = sessions.open(sessions.newest())
    before = log.path.read_bytes()
    with log:
        log.add_turn(turn("two"))
    assert log.path.read_bytes().startswith(before)
    assert texts(reopened(sessions)) == ["one", "two"]


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    log = begun(store(tmp_path), "one")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_the_file_is_one_json_object_a_line(tmp_path: Path) -> None:
    log = begun(store(tmp_path), "a\nb\x9b\u2028")
    lines = log.path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["session", "question", "turn"]


# Finding


def test_ids_sort_by_time(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    first, second = begun(sessions, "one"), begun(sessions, "two")
    assert first.id[:19] <= second.id[:19]
    assert first.id != second.id


def test_the_newest_is_what_changed_last(tmp_path: Path) -> None:
    sessions = store(tmp_path, clock=Clock())
    one, two = begun(sessions, "one"), begun(sessions, "two")
    one.add_turn(turn("later"))
    os.utime(two.path, (1_900_000_000, 1_900_000_000))
    assert sessions.newest().id == sessions.find("").id == one.id
    assert [summary.id for summary in sessions.summaries()] == [one.id, two.id]


def test_without_sessions_there_is_none_to_continue(tmp_path: Path) -> None:
    assert store(tmp_path).summaries() == []
    with pytest.raises(UsageError, match="there is no session to continue"):
        store(tmp_path).newest()


def test_a_session_is_found_by_name_id_and_beginning_of_the_id(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    log = begun(sessions, "one", name="My work")
    for wanted in ("My work", "my  WORK", log.id, log.id[:-1]):
        assert sessions.find(wanted).id == log.id


def test_a_name_that_is_near_is_told(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    begun(sessions, "one", name="recipes")
    with pytest.raises(UsageError) as error:
        sessions.find("recipe\x1b[2Js")
    assert str(error.value) == "there is no session 'recipe␛[2Js'; near it: recipes."


def test_a_beginning_of_several_ids_is_told(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    logs = [begun(sessions, "one") for _ in range(2)]
    with pytest.raises(UsageError, match="begins 2 session ids") as error:
        sessions.find(logs[0].id[:4])
    assert all(log.id in str(error.value) for log in logs)


@pytest.mark.parametrize("name", ["", "  ", "x" * 81, "a\x1b[2J", "a\u202eb", "a\x00"])
def test_names_can_be_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="expected a name of 1 to 80 visible characters"):
        store(tmp_path).create("a model", name=name)


def test_a_name_belongs_to_one_session(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    begun(sessions, "one", name="mine")
    other = begun(sessions, "two")
    with pytest.raises(UsageError, match="another session is called 'Mine'"):
        other.rename("Mine")
    other.rename("yours")
    other.rename("Yours")
    assert {summary.name for summary in sessions.summaries()} == {"mine", "Yours"}


# Listing


def test_a_summary_tells_what_a_list_needs(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    parent = begun(sessions, "Why is\n the sky  \x1b]0;blue\x07?", "And now?", name="sky")
    fork = sessions.create("a model", name="fork", parent=parent.id)
    for one in (turn("a " * 100), turn("b")):
        fork.add_turn(one)
    parent.kv_path.write_bytes(b"12345")
    summary = sessions.find("sky")
    assert (summary.title, summary.turns) == ("Why is the sky ␛]0;blue␇?", 2)
    assert (summary.model, summary.kv_bytes, summary.parent) == ("a model", 5, None)
    forked = sessions.find("fork")
    assert (forked.parent, forked.turns, forked.kv_bytes) == (parent.id, 2, None)
    assert len(forked.title) <= 60
    assert forked.title.endswith("a…")


def test_the_title_follows_the_first_message(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    log = begun(sessions, "one", "two")
    log.rewind(0)
    log.begin_turn("another")
    assert sessions.newest().title == "another"
    log.add_turn(turn("another"))
    log.begin_turn("again")
    log.add_turn(turn("again"), keep=0)
    assert sessions.newest().title == "again"


def test_the_title_is_what_was_typed_not_the_files_before_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[file content end]\nlong text\n")
    sessions = store(tmp_path)
    begun(sessions, expand("Read @a.txt", tmp_path, len).text)
    assert sessions.newest().title == "Read @a.txt"


def test_a_list_follows_what_other_programs_change(tmp_path: Path) -> None:
    sessions, others = store(tmp_path), store(tmp_path)
    log = begun(others, "one", name="first")
    log.kv_path.write_bytes(b"123")
    assert [(s.name, s.turns, s.kv_bytes) for s in sessions.summaries()] == [("first", 1, 3)]
    log.add_turn(turn("two"))
    log.rename("second")
    log.kv_path.unlink()
    assert [(s.name, s.turns, s.kv_bytes) for s in sessions.summaries()] == [("second", 2, None)]
    log.close()
    others.delete(others.newest())
    assert sessions.summaries() == []


def test_a_file_that_is_no_session_is_listed_with_its_problem(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    log = begun(sessions, "one")
    log.path.with_name("20000101-000000-000-aaaaaa.jsonl").write_text("hello\n")
    listed = {summary.id[:4]: summary.problem for summary in sessions.summaries()}
    assert listed[log.id[:4]] is None
    assert "is no session that can be read: line 1 is damaged" in (listed["2000"] or "")
    with pytest.raises(SessionError, match="is no session that can be read"):
        sessions.open(sessions.find("20000101-000000-000-aaaaaa"))
    assert sessions.newest().id == log.id


# One program at a time


def test_an_open_session_is_locked(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    log = begun(sessions, "one")
    with pytest.raises(SessionError, match="is open, here or in another program"):
        store(tmp_path).open(sessions.newest())
    with pytest.raises(SessionError, match="is open, here or in another program"):
        sessions.delete(sessions.newest())
    log.close()
    assert texts(reopened(store(tmp_path))) == ["one"]


def test_a_deleted_session_is_gone_with_its_cache(tmp_path: Path) -> None:
    sessions = store(tmp_path)
    with begun(sessions, "one") as log:
        log.kv_path.write_bytes(b"kv")
    sessions.delete(sessions.newest())
    assert files(tmp_path) == set()


# Cache files


def cached(sessions: SessionStore, used: int, size: int = 10):
    """A closed session with a cache file whose own times say nothing."""
    with begun(sessions, "one") as log:
        log.kv_path.write_bytes(b"x" * size)
        os.utime(log.kv_path, (9 - used, 9 - used))
    return log


def test_the_caches_of_sessions_that_changed_longest_ago_go_first(tmp_path: Path) -> None:
    sessions = store(tmp_path, kv_budget_bytes=20, clock=Clock())
    logs = [cached(sessions, used) for used in (1, 2, 3)]
    sessions.evict()
    assert [log.kv_path.exists() for log in logs] == [False, True, True]
    assert all(log.path.exists() for log in logs)


def test_going_on_with_a_session_keeps_its_cache(tmp_path: Path) -> None:
    sessions = store(tmp_path, kv_budget_bytes=20, clock=Clock())
    logs = [cached(sessions, used) for used in (1, 2, 3)]
    log, _ = sessions.open(sessions.find(logs[0].id))
    log.begin_turn("again")
    log.close()
    sessions.evict()
    assert [log.kv_path.exists() for log in logs] == [True, False, True]


def test_the_cache_of_an_open_session_stays(tmp_path: Path) -> None:
    sessions = store(tmp_path, kv_budget_bytes=20)
    logs = [cached(sessions, used) for used in (1, 2, 3, 4)]
    opened, _ = sessions.open(sessions.find(logs[0].id))
    os.utime(logs[0].kv_path, (0, 0))
    store(tmp_path, kv_budget_bytes=0).evict(keep=logs[1])
    assert [log.kv_path.exists() for log in logs] == [True, True, False, False]
    opened.close()


def test_caches_without_a_session_may_go(tmp_path: Path) -> None:
    sessions = store(tmp_path, kv_budget_bytes=0)
    begun(sessions, "one").path.with_name("orphan.kv").write_bytes(b"x")
    sessions.evict()
    assert not [name for name in files(tmp_path) if name.endswith(".kv")]
