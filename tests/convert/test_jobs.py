"""However many matrices are converted at a time, the files are the same."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from convert.app import main
from convert.disk import Disk
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from tests.convert.test_resume import KILLED_CONVERTER, LIMIT, ROOT, SMALL, contents


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL, shards=3)


@pytest.mark.parametrize("recipe", ["native", "q4"])
def test_any_number_of_jobs_gives_the_same_bytes(recipe, source, tmp_path):
    plan = plan_conversion(open_checkpoint(source), recipe, max_shard_bytes=LIMIT)
    for jobs in (1, 2, 4):
        write(plan, tmp_path / str(jobs), ProgressDisplay(), jobs=jobs)
    one = contents(tmp_path / "1")
    assert contents(tmp_path / "2") == one
    assert contents(tmp_path / "4") == one


@pytest.mark.parametrize("moment", [5, 40, 80])
def test_killed_with_two_jobs_ends_with_the_same_bytes(moment, source, tmp_path):
    plan = plan_conversion(open_checkpoint(source), max_shard_bytes=LIMIT)
    write(plan, tmp_path / "whole", ProgressDisplay(), jobs=1)
    command = [sys.executable, "-c", KILLED_CONVERTER, str(source), str(tmp_path / "out")]
    killed = subprocess.run([*command, str(moment), str(LIMIT), "2"], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()
    write(plan, tmp_path / "out", ProgressDisplay(), resume=True, jobs=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Meeting(Disk):
    """Writes of the shards wait for each other until two have met."""

    def __init__(self):
        super().__init__()
        self._barrier = threading.Barrier(2)
        self.met = False

    def write(self, descriptor, data, offset):
        if offset and not self.met and threading.current_thread() is not threading.main_thread():
            self._barrier.wait(60)
            self.met = True
        super().write(descriptor, data, offset)


def test_two_jobs_are_in_work_at_the_same_time(source, tmp_path):
    disk = Meeting()
    plan = plan_conversion(open_checkpoint(source))
    write(plan, tmp_path / "out", ProgressDisplay(), jobs=2, disk=disk)
    assert disk.met


class Counting(Disk):
    """Keeps the largest number of writes that were under way at one time."""

    def __init__(self):
        super().__init__()
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def write(self, descriptor, data, offset):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        super().write(descriptor, data, offset)
        with self._lock:
            self._now -= 1


def test_one_job_is_alone(source, tmp_path):
    disk = Counting()
    plan = plan_conversion(open_checkpoint(source))
    write(plan, tmp_path / "out", ProgressDisplay(), jobs=1, disk=disk)
    assert disk.most == 1


def test_no_thread_stays_behind(source, tmp_path):
    class Failing(Disk):
        def write(self, descriptor, data, offset):
            if offset:
                raise OSError(5, "Input/output error")
            super().write(descriptor, data, offset)

    plan = plan_conversion(open_checkpoint(source))
    before = threading.active_count()
    with pytest.raises(OSError, match="Input/output"):
        write(plan, tmp_path / "out", ProgressDisplay(), jobs=4, disk=Failing())
    assert threading.active_count() == before


@pytest.mark.parametrize("number", ["0", "-2", "17", "many", "1.5", ""])
def test_a_number_that_makes_no_sense_is_one_sentence(number, source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "out"), f"--jobs={number}"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: --jobs is {number!r}, expected a whole number from 1 to 16."
    ]
    assert not (tmp_path / "out").exists()


def test_the_option_reaches_the_writer(source, tmp_path, monkeypatch):
    found: list[int] = []
    monkeypatch.setattr("convert.app.write", lambda *_, jobs, **__: found.append(jobs))
    assert main([str(source), str(tmp_path / "out"), "--jobs", "3"]) == 0
    assert found == [3]
