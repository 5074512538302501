"""Rates of disks by a clock that moves with what is read, and reads of real files."""

import errno
import os
from mmap import mmap
from pathlib import Path
from threading import Lock

import pytest

from cli.machine import disk_speed
from cli.machine.disk_speed import Files, Measuring, measure


class Disk:
    """Answers at a rate that may fall with time; its clock moves by what reading takes."""

    def __init__(self, rate: float, hot_rate: float | None = None, hot_at: float = 0) -> None:
        self.now, self.reads, self.places = 0.0, 0, set[float]()
        self._rate, self._hot, self._hot_at, self._lock = rate, hot_rate or rate, hot_at, Lock()

    def clock(self) -> float:
        with self._lock:
            return self.now

    def read(self, place: float, buffer: mmap) -> int:
        with self._lock:
            rate = self._hot if self.now >= self._hot_at else self._rate
            self.now += len(buffer) / rate
            self.reads += 1
            self.places.add(place)
            return len(buffer)


def test_the_rate_is_that_of_all_threads_together() -> None:
    disk = Disk(5.5e9)
    found = measure(disk, 13_369_344, Measuring(clock=disk.clock), seed=1)
    assert found.first == pytest.approx(5.5e9) and found.later == pytest.approx(5.5e9)
    assert found.read_bytes == 13_369_344 and found.threads == 8
    assert disk.now == pytest.approx(26, abs=0.1)
    assert len(disk.places) == disk.reads > 1_000
    assert found.sentence().startswith("reads 5.5 GB/s, 5.5 GB/s after 20 s more (measured: 8")


def test_a_disk_that_gets_hot_is_noticed() -> None:
    disk = Disk(6e9, 2e9, hot_at=10)
    found = measure(disk, 1 << 20, Measuring(clock=disk.clock), seed=1)
    assert found.first == pytest.approx(6e9) and found.later == pytest.approx(2e9)
    assert found.sustained == found.later


def test_durations_and_threads_are_those_handed_in() -> None:
    disk = Disk(1e6)
    short = Measuring(seconds=0.5, pause=0, threads=2, clock=disk.clock)
    found = measure(disk, 1, short)
    assert disk.now == pytest.approx(1, abs=0.1)
    assert found.read_bytes == 1 << 14  # whole pages
    assert found.threads == 2


def test_an_error_of_a_read_ends_the_measuring() -> None:
    class Broken(Disk):
        def read(self, place: float, buffer: mmap) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output"):
        measure(Broken(1.0), 1, Measuring(clock=Disk(1.0).clock))


@pytest.mark.parametrize("direct", [disk_speed._O_DIRECT, 0])
def test_files_are_read_at_places_of_all_of_them(
    tmp_path: Path, direct: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_speed, "_O_DIRECT", direct)
    pages = [bytes([number]) * (1 << 14) for number in range(1, 8)]
    (tmp_path / "a").write_bytes(b"".join(pages[:5]))
    (tmp_path / "b").write_bytes(b"".join(pages[5:]))
    files = Files([tmp_path / "a", tmp_path / "b"])
    seen = set()
    with mmap(-1, 1 << 14) as buffer:
        for step in range(70):
            assert files.read(step / 70, buffer) == 1 << 14
            seen.add(buffer[0])
    files.close()
    assert seen == set(range(1, 8))  # whole pages, and none beyond the end of a file


def test_a_mac_is_asked_to_read_past_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(disk_speed, "_O_DIRECT", 0)
    monkeypatch.setattr(disk_speed, "_F_NOCACHE", 48)
    monkeypatch.setattr(disk_speed.fcntl, "fcntl", lambda *args: asked.append(args))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    (tmp_path / "a").write_bytes(b"x" * (1 << 15))
    files = Files([tmp_path / "a"])
    assert [(command, value) for _, command, value in asked] == [(48, 1)]
    with mmap(-1, 1 << 14) as buffer:
        assert files.read(0.9, buffer) == 1 << 14
    files.close()


def test_a_missing_file_leaves_none_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(FileNotFoundError):
        Files([tmp_path / "a", tmp_path / "b"])
    assert len(os.listdir("/dev/fd")) == before
