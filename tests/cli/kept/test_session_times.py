"""The newest conversation is the one whose own record is newest, whatever the files' times say."""

import os
import random
import re
import zlib
from datetime import timedelta
from pathlib import Path

import pytest

from cli.kept.session_times import began, last_record
from cli.kept.sessions import SessionStore
from tests.cli.kept_turns import Clock, begun, store, texts, turn

_AT = re.compile(rb', "at": "[^"]*"')


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def scrambled(folder: Path, chance: random.Random) -> None:
    """File times as a copy, a backup or a cloud leaves them."""
    for path in folder.iterdir():
        seconds = chance.choice((0, 1_900_000_000, chance.randrange(1 << 31)))
        os.utime(path, (seconds, seconds))


def older(line: bytes) -> bytes:
    """A line as it was before lines told their time."""
    content = _AT.sub(b"", line).partition(b', "crc"')[0]
    return content + f', "crc": "{zlib.crc32(content):08x}"}}\n'.encode()


def written(sessions: SessionStore, clock: Clock, chance: random.Random) -> list[str]:
    """Ids of a few sessions, the one that changed last first; some went on after others began."""
    changed = {}
    logs = [begun(sessions, f"one {n}") for n in range(chance.randint(2, 6))]
    for second in range(chance.randint(0, 12)):
        log = chance.choice(logs)
        clock.set(40_000_000 + 60 * second)
        action = chance.choice((log.begin_turn, log.rename, None))
        if action is None:
            log.add_turn(turn("x", "long " * chance.choice((1, 30_000))))
        else:
            action(f"{log.id} {second}")
        changed[log.id] = clock.now
    for log in logs:
        changed.setdefault(log.id, last_record(log.path))
        log.close()
    return sorted(changed, key=lambda id: changed[id], reverse=True)


@pytest.mark.parametrize("seed", range(24))
def test_lists_and_continue_follow_the_records(tmp_path: Path, seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    sessions = store(tmp_path, clock=clock)
    newest_first = written(sessions, clock, chance)
    scrambled(tmp_path / "sessions", chance)
    if chance.random() < 0.5:  # a kill in the middle of a line
        path = tmp_path / "sessions" / f"{newest_first[0]}.jsonl"
        with open(path, "ab") as file:
            file.write(b'{"n": 99, "type": "turn", "text": "' + b"x" * chance.choice((9, 200_000)))
    fresh = store(tmp_path)
    assert [summary.id for summary in fresh.summaries()] == newest_first
    assert fresh.newest().id == newest_first[0]
    for summary in fresh.summaries():
        path = tmp_path / "sessions" / f"{summary.id}.jsonl"
        assert summary.changed == last_record(path)


@pytest.mark.parametrize("seed", range(4))
def test_files_of_older_versions_count_from_their_beginning(tmp_path: Path, seed: int) -> None:
    """They tell no other time, and any guess from the file would be wrong after a copy."""
    chance, clock = random.Random(seed), Clock()
    sessions = store(tmp_path, clock=clock)
    written(sessions, clock, chance)
    for path in (tmp_path / "sessions").iterdir():
        path.write_bytes(b"".join(map(older, path.read_bytes().splitlines())))
    scrambled(tmp_path / "sessions", chance)
    found = store(tmp_path).summaries()
    assert len(found) >= 2
    for summary in found:
        start = began(summary.id)
        assert summary.problem is None and start is not None
        assert abs(summary.changed - start) < timedelta(seconds=1)
    assert store(tmp_path).newest().id == max(summary.id for summary in found)


def test_a_record_of_today_wins_over_a_file_of_tomorrow(tmp_path: Path) -> None:
    sessions = store(tmp_path, clock=Clock())
    with begun(sessions, "old") as old, begun(sessions, "new"):
        pass
    os.utime(old.path, (1_900_000_000, 1_900_000_000))
    log, saved = sessions.open(sessions.newest())
    log.close()
    assert texts(saved) == ["new"]


@pytest.mark.parametrize(
    "id", ["", "notes", "20259999-999999-999-aaaaaa", "20251124", "99999999-000000-000-x"]
)
def test_a_name_that_tells_no_time(id: str) -> None:
    assert began(id) is None
