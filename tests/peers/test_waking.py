"""Idle sleep is held off while something happens; a stand-in for `caffeinate` is called."""

import os
from pathlib import Path

import pytest

from dsv4_mlx.peers.waking import HELD_S, Waking
from tests.peers.test_watchdog import Clock


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in was called with, a line each; it stays until it is ended."""
    program, written = tmp_path / "caffeinate", tmp_path / "calls"
    program.write_text(f'#!/bin/sh\necho "$@" >> {written}\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return written


def lines(written: Path, count: int) -> list[str]:
    """The first `count` lines, once they are there."""
    while len(found := written.read_text().splitlines() if written.exists() else []) < count:
        os.sched_yield()
    return found


def test_sleep_is_held_off_once_a_minute_and_let_be_at_the_end(calls: Path) -> None:
    clock = Clock()
    waking = Waking(system="darwin", clock=clock)
    waking.touch()
    assert lines(calls, 1) == [f"-i -t {HELD_S} -w {os.getpid()}"]
    first = waking._holding
    clock.now += 59.0
    waking.touch()
    assert waking._holding is first
    clock.now += 1.0
    waking.touch()
    second = waking._holding
    assert first.poll() is not None and second is not first
    assert len(lines(calls, 2)) == 2
    waking.close()
    assert second.poll() is not None


@pytest.mark.parametrize(("is_wanted", "system"), [(False, "darwin"), (True, "linux")])
def test_elsewhere_nothing_is_started(calls: Path, is_wanted: bool, system: str) -> None:
    waking = Waking(is_wanted, system=system)
    waking.touch()
    assert waking._holding is None
    waking.close()


def test_a_mac_without_the_program_works_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    clock = Clock()
    waking = Waking(system="darwin", clock=clock)
    waking.touch()
    clock.now += 100.0
    waking.touch()
    assert waking._holding is None
