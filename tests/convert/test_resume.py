"""Whatever stops a conversion, it can be continued, and ends with the same bytes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convert.app import main
from convert.disk import Disk
from convert.journal import JOURNAL_FILE
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=2, compress_ratios=(4, 128, 0), num_hash_layers=1, n_routed_experts=4
)
LIMIT = 600_000
ROOT = Path(__file__).parents[2]

# Converts with a disk that kills its process just before or in the middle of one operation.
KILLED_CONVERTER = """
import os, signal, sys
from pathlib import Path
from convert.disk import Disk
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.weights.checkpoint import open_checkpoint

class Killing(Disk):
    left = int(sys.argv[3])
    def write(self, descriptor, data, offset):
        self.left -= 1
        if self.left == 0:
            super().write(descriptor, bytes(data)[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(descriptor, data, offset)
    def publish(self, temporary, final):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super().publish(temporary, final)

plan = plan_conversion(open_checkpoint(sys.argv[1]), max_shard_bytes=int(sys.argv[4]))
jobs = int(sys.argv[5]) if len(sys.argv) > 5 else None
write(plan, Path(sys.argv[2]), ProgressDisplay(), resume=True, jobs=jobs, disk=Killing())
"""


class Full(Disk):
    """Has no room left after so many operations."""

    def __init__(self, operations: float):
        super().__init__()
        self.left = operations

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, descriptor, data, offset):
        self._count()
        super().write(descriptor, data, offset)

    def publish(self, temporary, final):
        self._count()
        super().publish(temporary, final)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> dict[str, bytes]:
    """The files of a conversion that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(source, folder)
    return contents(folder)


def run(source: Path, folder: Path, *, resume=False, disk: Disk | None = None) -> None:
    plan = plan_conversion(open_checkpoint(source), max_shard_bytes=LIMIT)
    write(plan, folder, ProgressDisplay(), resume=resume, disk=disk)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def operations(source, tmp_path_factory) -> int:
    """How many times a conversion writes or publishes."""
    disk = Full(10**9)
    run(source, tmp_path_factory.mktemp("counted") / "out", disk=disk)
    return 10**9 - int(disk.left)


@pytest.mark.parametrize("share", [0.01, pytest.param(0.4, marks=pytest.mark.slow), 0.9, 1.0])
def test_a_killed_conversion_ends_with_the_same_bytes(share, operations, source, whole, tmp_path):
    moment = max(1, round(share * operations))
    command = [sys.executable, "-c", KILLED_CONVERTER, str(source), str(tmp_path / "out")]
    killed = subprocess.run([*command, str(moment), str(LIMIT)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()
    run(source, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == whole


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "times", [pytest.param(10, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.soak)]
)
def test_killed_at_many_times(times, tmp_path):
    """Moments spread over the measured time of the command, its start included."""
    config = SMALL.replace(n_routed_experts=64)
    source = write_tiny_checkpoint(tmp_path / "source", config)
    command = [sys.executable, "-m", "convert", str(source)]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    took = time.monotonic() - start
    expected = contents(tmp_path / "whole")
    killed = 0
    for number in range(times):
        out = tmp_path / f"out{number}"
        running = subprocess.Popen(
            [*command, str(out), "--resume"], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        try:
            running.wait(took * (number + 1) / times)
        except subprocess.TimeoutExpired:
            running.kill()
            killed += 1
        running.wait()
        assert main([str(source), str(out), "--resume"]) == 0
        assert contents(out) == expected
    assert killed > times / 2


@pytest.mark.parametrize(
    "point", [pytest.param(n, marks=[pytest.mark.slow] * (n % 4 > 0)) for n in range(20)]
)
def test_a_full_disk_is_one_sentence_and_resumable(point, source, whole, tmp_path, monkeypatch):
    total = 60
    full = Full(point * total // 20)
    with pytest.raises(OSError) as stopped:
        run(source, tmp_path / "out", disk=full)
    assert stopped.value.errno == errno.ENOSPC
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()
    run(source, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == whole


def test_twenty_points_lie_within_the_run(operations):
    assert operations > 60


def test_the_command_names_a_full_disk(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("convert.writer.Disk", lambda: Full(9))
    assert main([str(source), str(tmp_path / "out")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Stopped: No space left") and "--resume" in last
    monkeypatch.undo()
    assert main([str(source), str(tmp_path / "out"), "--resume"]) == 0


def test_a_folder_with_a_journal_is_refused_without_resume(source, tmp_path, capsys):
    with pytest.raises(OSError):
        run(source, tmp_path / "out", disk=Full(9))
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match=rf"{JOURNAL_FILE} says how far .* --resume"):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_resume_starts_where_nothing_is(source, whole, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("absent", "empty"):
        run(source, tmp_path / name, resume=True)
        assert contents(tmp_path / name) == whole


def test_resume_leaves_a_finished_folder_alone(source, tmp_path):
    run(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    run(source, tmp_path / "out", resume=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_resume_refuses_a_folder_of_something_else(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not empty"):
        run(source, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_resume_refuses_a_finished_folder_of_another_source(source, tmp_path):
    other = write_tiny_checkpoint(tmp_path / "other", SMALL.replace(n_routed_experts=2))
    run(source, tmp_path / "out")
    with pytest.raises(
        UsageError, match="another source, recipe, importance file, choice of drafts or layers"
    ):
        run(other, tmp_path / "out", resume=True)


def test_a_changed_source_is_refused(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, shards=3)
    with pytest.raises(OSError):
        run(source, tmp_path / "out", disk=Full(30))
    shard = source / "model-00002-of-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{shard.name} in .* changed since"):
        run(source, tmp_path / "out", resume=True)


def test_a_source_that_changes_during_the_run_is_refused(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL)

    class Changing(Disk):
        def publish(self, temporary, final):
            os.utime(next(source.glob("*.safetensors")), (1, 1))
            super().publish(temporary, final)

    with pytest.raises(CheckpointError, match="changed since"):
        run(source, tmp_path / "out", disk=Changing())
    assert not (tmp_path / "out" / CONVERSION_FILE).exists()


def test_another_recipe_does_not_continue_this_one(source, tmp_path):
    with pytest.raises(OSError):
        run(source, tmp_path / "out", disk=Full(9))
    plan = plan_conversion(open_checkpoint(source), max_shard_bytes=2 * LIMIT)
    with pytest.raises(UsageError, match="another recipe"):
        write(plan, tmp_path / "out", ProgressDisplay(), resume=True)


def test_a_second_converter_is_refused(source, tmp_path):
    second: list[str] = []

    class Meeting(Disk):
        def publish(self, temporary, final):
            try:
                run(source, tmp_path / "out", resume=True)
            except UsageError as error:
                second.append(str(error))
            super().publish(temporary, final)

    run(source, tmp_path / "out", disk=Meeting())
    assert second and all("Another converter is writing" in sentence for sentence in second)


def test_a_torn_line_of_the_journal_is_as_if_not_written(source, whole, tmp_path):
    with pytest.raises(OSError):
        run(source, tmp_path / "out", disk=Full(30))
    journal = tmp_path / "out" / JOURNAL_FILE
    kinds = [json.loads(line)["kind"] for line in journal.read_text().splitlines()]
    assert kinds[0] == "start" and "shard" in kinds
    journal.write_bytes(journal.read_bytes()[:-10])
    run(source, tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    "line",
    [
        "not a journal",
        "[]",
        "null",
        '{"kind": "shard"}',
        '{"kind": "shard", "file": "a", "bytes": 1, "tensors": [], "errors": {}}',
        '{"kind": "start"}',
        '{"kind": "start", "plan": "a"}',
        '{"kind": "start", "plan": "a", "source": null}',
        '{"kind": "source hash", "file": "a"}',
    ],
)
def test_a_damaged_journal_is_named(source, tmp_path, line):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / JOURNAL_FILE).write_text(line + "\n")
    with pytest.raises(CheckpointError, match="is damaged; delete"):
        run(source, tmp_path / "out", resume=True)
