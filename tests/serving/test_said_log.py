"""What was said, on disk."""

from pathlib import Path

import pytest

from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.serving import said_log
from dsv4_mlx.serving.said import SaidMemory, SaidReply
from dsv4_mlx.serving.said_log import SaidLog


def reply(number: int) -> SaidReply:
    return SaidReply((1, number), (2,), "why", f"seen {number}", "asked", (f"id{number}",))


def replies(path: Path, most_tokens: int = 1000) -> list[tuple[str, SaidReply]]:
    memory = SaidMemory(most_tokens)
    SaidLog(path, memory)
    return list(memory)


def written(path: Path, count: int) -> list[tuple[str, SaidReply]]:
    log = SaidLog(path, SaidMemory())
    said = [("Grüße" * (number % 2), reply(number)) for number in range(count)]
    for owner, one in said:
        log.add(owner, one)
    return said


def test_a_restart_knows_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    said = written(path, 5)
    assert replies(path) == said
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_costs_itself_alone(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "said.jsonl"
    said = written(path, 3)
    path.write_bytes(path.read_bytes()[:-cut])
    memory = SaidMemory()
    log = SaidLog(path, memory)
    assert list(memory) == said[:2] or (cut == 1 and list(memory) == said)
    log.add("", reply(9))
    assert ("", reply(9)) in replies(path) and replies(path)[:2] == said[:2]


@pytest.mark.parametrize("line", ["", "[]", "{}", "nul", '{"owner": 1}', "\x00\xff"])
def test_a_line_that_is_none_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "said.jsonl"
    said = written(path, 2)
    first, second = path.read_text().splitlines()
    path.write_text("\n".join([first, line, second]) + "\n")
    assert replies(path) == said


def test_what_is_forgotten_leaves_the_file_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "said.jsonl"
    said = written(path, 20)
    assert replies(path, most_tokens=12) == said[-4:]
    assert len(path.read_text().splitlines()) == 4
    assert replies(path) == said[-4:]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_file_is_bounded_while_the_program_runs(
    tmp_path: Path, is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is said, and as often as it is: a server may run for months."""
    monkeypatch.setattr(said_log, "LEAST_SPARE", 8)
    path = tmp_path / "said.jsonl"
    log = SaidLog(path, SaidMemory(most_tokens=12))
    for number in range(100):
        log.add("", reply(number if is_new else 7))
        assert len(path.read_text().splitlines()) <= 4 + 8
    latest = [reply(number) for number in range(96, 100)] if is_new else [reply(7)]
    assert [one for _, one in replies(path)][-len(latest) :] == latest


def test_a_disk_that_is_full_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FileSystem, descriptor: int, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(said_log, "LEAST_SPARE", 2)
    monkeypatch.setattr(FileSystem, "sync", full)
    path = tmp_path / "said.jsonl"
    said = written(path, 5)
    assert replies(path) == said and list(tmp_path.iterdir()) == [path]
