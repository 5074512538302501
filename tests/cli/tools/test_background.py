"""What commands leave running: named, ended with the conversation, and nothing else is touched."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.tools import background
from cli.tools.background import Background, processes
from cli.tools.shell import run
from tests.cli.running import run as chat
from tests.cli.scripted import opening, write_chat_folder

SLEEP = "sleep 1000"
GROUP = "import os; os.setpgrp(); os.execlp('sleep', 'sleep', '1000')"
WAYS = [
    *(SLEEP, f"({SLEEP})", f"nohup {SLEEP}", f"sh -c '{SLEEP}; true'", f"exec {SLEEP}"),
    *(f"env -i PATH=$PATH {SLEEP}", f'{sys.executable} -c "{GROUP}"'),
]


@pytest.fixture
def left() -> Iterator[Background]:
    held = Background()
    yield held
    held.end()


def alive(pid: int) -> bool:
    return any(one.pid == pid for one in processes())


@pytest.mark.parametrize(
    ("way", "times"), list(itertools.product(WAYS, [1, 2, 6])), ids=lambda value: str(value)
)
def test_what_is_left_is_named_and_ended(
    tmp_path: Path, left: Background, way: str, times: int
) -> None:
    command = "".join(f"{way} >/dev/null 2>&1 & echo $!;" for _ in range(times))
    ran = run(command, tmp_path, background=left)
    pids = [int(word) for word in ran.text.split()]
    assert len(pids) == times
    assert all(map(alive, pids))
    (sentence,) = ran.left
    assert sentence.startswith("goes on until this conversation ends: ")
    assert times > 5 or len(re.findall(r"\(\d+\)", sentence)) >= times
    (ended,) = left.end()
    assert ended.startswith("ended with the conversation: ")
    assert not any(map(alive, pids))
    assert left.end() == []


def test_nothing_left_is_nothing_said(tmp_path: Path, left: Background) -> None:
    assert run("true; sleep 0", tmp_path, background=left).left == ()
    assert left.end() == []


def test_a_process_with_a_session_of_its_own_is_named_and_stays(
    tmp_path: Path, left: Background
) -> None:
    ran = run(f"setsid {SLEEP} >/dev/null 2>&1 & echo", tmp_path, background=left)
    named = re.findall(r"\((\d+)\)", " ".join(ran.left))
    left.end()
    # Where setsid came late, it was still in the session of its command, and what is said holds.
    stays = "goes on, also when this conversation ends: " in " ".join(ran.left)
    for pid in map(int, named):
        assert alive(pid) == stays
        if stays:
            os.kill(pid, 9)


def test_one_that_ignores_the_first_signal_is_ended(tmp_path: Path, left: Background) -> None:
    command = f"trap '' TERM; {SLEEP} >/dev/null 2>&1 & echo $!"
    pid = int(run(command, tmp_path, background=left).text)
    left.end()
    assert not alive(pid)


def test_anothers_processes_with_the_same_numbers_are_left_alone(left: Background) -> None:
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        left._left[other.pid] = background._Left("a mark", frozenset({(other.pid, "then")}))
        assert left.end() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_ps_tells_what_proc_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PROC", tmp_path)
    left = Background()
    pid = int(run(f"{SLEEP} >/dev/null 2>&1 & echo $!", tmp_path, background=left).text)
    assert alive(pid)
    assert "sleep" in " ".join(left.end())
    assert not alive(pid)


@pytest.mark.parametrize("end", ["/new", "/quit", ""])
def test_a_conversation_that_ends_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_chat_folder(tmp_path)
    typed = f"!{SLEEP} >/dev/null 2>&1 & echo $! >pid\ny\n" + (f"{end}\n" if end else "")
    done = chat("--model", folder, typed=typed, open_model=opening("a</think>b"))
    assert "[goes on until this conversation ends: " in done.stderr
    assert ("[ended with the conversation: " in done.stderr) == (end == "/new")
    assert not alive(int((tmp_path / "pid").read_text()))
