"""`--delete-source` on a disk that holds one copy: nothing is ever in neither folder."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convert.app import main
from convert.deletion import open_source
from convert.disk import Disk
from convert.journal import JOURNAL_FILE, Journal, read_journal
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.room import room_needed
from convert.shards import ShardWriter
from convert.writer import write
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=2, compress_ratios=(4, 128, 0), num_hash_layers=1, n_routed_experts=4
)
LIMIT = 500_000
ROOT = Path(__file__).parents[2]

# Converts with small shards; dies of its own hand before or after the given removal, write or name.
KILLED_CONVERTER = """
import os, signal, sys
from pathlib import Path
from convert.deletion import open_source
from convert.disk import Disk
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
import convert.deletion

left = int(sys.argv[3])
def tick():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Killing(Disk):
    def write(self, *arguments):
        tick()
        super().write(*arguments)
    def publish(self, *arguments):
        tick()
        super().publish(*arguments)

remove = convert.deletion._remove
def removing(path):
    tick()
    remove(path)
    tick()
convert.deletion._remove = removing
source, parameters = open_source(Path(sys.argv[1]), Path(sys.argv[2]))
plan = plan_conversion(source, "native", int(sys.argv[4]), parameters)
write(plan, Path(sys.argv[2]), ProgressDisplay(), resume=True, delete_source=True, disk=Killing())
print(-left)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """With draft stages, which are kept as they are."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL, shards=6, dspark=True)


def test_the_source_has_draft_tensors(source):
    assert plan_conversion(open_checkpoint(source), "native", LIMIT).drafts.jobs


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "out"
    write(plan_conversion(open_checkpoint(source), "native", LIMIT), folder, ProgressDisplay())
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(source: Path, folder: Path, moment: int = 10**9) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", KILLED_CONVERTER, str(source), str(folder)]
    arguments = [str(moment), str(LIMIT)]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )


def held(source: Path, original: Path, out: Path) -> None:
    """Every tensor is in a whole shard of the source or, through its job, of the destination."""
    there = {name for path in source.glob("*.safetensors") for name in read_header(path)}
    made = {name for path in out.glob("*.safetensors") for name in read_header(path)}
    plan = plan_conversion(open_checkpoint(original), "native", LIMIT)
    for job in (job for shard in plan.files for job in shard.jobs):  # drafts too
        converted = {output.name for output in job.outputs} <= made
        assert converted or {entry.name for entry in job.sources} <= there, job.module


def test_the_source_is_gone_and_the_result_the_same(source, whole, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    done = run(tmp_path / "source", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == whole
    assert not list((tmp_path / "source").glob("*.safetensors"))
    assert (tmp_path / "source" / "config.json").exists()


@pytest.fixture(scope="module")
def total(source, tmp_path_factory) -> int:
    """How many moments there are to be killed at."""
    folder = tmp_path_factory.mktemp("counted")
    shutil.copytree(source, folder / "source")
    return 10**9 + int(run(folder / "source", folder / "out").stdout)


@pytest.mark.parametrize(
    "share", [0.45, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.7, 0.95))]
)
def test_killed_in_between_nothing_is_lost(share, total, source, whole, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    killed = run(tmp_path / "source", tmp_path / "out", max(1, round(share * total)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    held(tmp_path / "source", source, tmp_path / "out")
    resumed = run(tmp_path / "source", tmp_path / "out")
    assert resumed.returncode == 0, resumed.stderr
    assert contents(tmp_path / "out") == whole


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "step", [pytest.param(11, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.soak)]
)
def test_killed_at_any_moment_nothing_is_lost(step, source, whole, tmp_path):
    kills, moments = 0, range(1, 120, step)
    for moment in moments:
        here, out = tmp_path / f"source{moment}", tmp_path / f"out{moment}"
        shutil.copytree(source, here)
        killed = run(here, out, moment)
        assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
        kills += killed.returncode != 0
        held(here, source, out)
        if killed.returncode:
            assert run(here, out).returncode == 0
        assert contents(out) == whole
        assert not list(here.glob("*.safetensors"))
    assert kills > len(moments) / 2


def test_what_does_not_read_back_keeps_its_source(source, tmp_path, monkeypatch):
    shutil.copytree(source, tmp_path / "source")
    original = ShardWriter.write

    def write_and_flip(self, shard, path):
        written = original(self, shard, path)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return written

    monkeypatch.setattr(ShardWriter, "write", write_and_flip)
    plan = plan_conversion(open_checkpoint(tmp_path / "source"), "native", LIMIT)
    with pytest.raises(CheckpointError, match="was not read back as it was written"):
        write(plan, tmp_path / "out", ProgressDisplay(), delete_source=True)
    assert len(list((tmp_path / "source").glob("*.safetensors"))) == 6


def test_a_hub_cache_loses_the_blobs_too(source, tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copyfile(path, tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{number}")
    weights = len(list(source.glob("*.safetensors")))
    files = len(list(source.iterdir()))
    assert main([str(tmp_path / "snapshot"), str(tmp_path / "out"), "--delete-source"]) == 0
    assert len(list((tmp_path / "blobs").iterdir())) == files - weights


def test_less_room_is_needed_while_the_source_shrinks(source, tmp_path):
    plan = plan_conversion(open_checkpoint(source), "native", LIMIT)
    largest = max(shard.file_bytes() for shard in plan.files)
    whole = sum(shard.file_bytes() for shard in plan.files)
    assert largest <= room_needed(plan, tmp_path / "out", delete_source=True) < whole
    assert room_needed(plan, tmp_path / "out") == whole


def test_a_plan_subtracts_what_the_source_frees(source, tmp_path, capsys):
    """As the conversion itself does, which then runs on a disk of that size."""
    shutil.copytree(source, tmp_path / "source")
    arguments = [str(tmp_path / "source"), str(tmp_path / "a" / "b"), "--dry-run", "--json"]
    needed = []
    for options in ([], ["--delete-source"]):
        assert main([*arguments, *options]) == 0
        needed.append(json.loads(capsys.readouterr().out)["disk_needed"])
    plan = plan_conversion(open_checkpoint(tmp_path / "source"))
    assert needed == [
        sum(shard.file_bytes() for shard in plan.files),
        room_needed(plan, tmp_path, delete_source=True),
    ]
    assert needed[1] < needed[0]
    assert main([*arguments[:3], "--delete-source"]) == 0
    assert f"{(needed[0] - needed[1]) / 1e6:.1f} MB come from the source" in capsys.readouterr().out


def test_a_file_with_another_name_frees_nothing(source, tmp_path):
    """Its bytes stay, under that name."""
    shutil.copytree(source, tmp_path / "source")
    for path in (tmp_path / "source").glob("*.safetensors"):
        os.link(path, tmp_path / path.name)
    plan = plan_conversion(open_checkpoint(tmp_path / "source"), "native", LIMIT)
    whole = sum(shard.file_bytes() for shard in plan.files)
    assert room_needed(plan, tmp_path / "out", delete_source=True) == whole


def without_fingerprint(folder: Path) -> None:
    """As journals of another version may be, or damaged ones."""
    path = folder / JOURNAL_FILE
    first, *rest = path.read_text().splitlines(keepends=True)
    start = json.loads(first)
    del start["fingerprint"]
    path.write_text("".join([json.dumps(start) + "\n", *rest]))


@pytest.mark.parametrize("share", [0.3, pytest.param(0.8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("before", "after"), [(False, False), (False, True), (True, True), (True, False)]
)
def test_a_journal_without_fingerprint_is_gone_on_with(
    before, after, share, source, whole, tmp_path
):
    copy, out = shutil.copytree(source, tmp_path / "source"), tmp_path / "out"
    plan = plan_conversion(open_checkpoint(copy), "native", LIMIT)

    class Full(Disk):
        def publish(self, temporary: Path, final: Path) -> None:
            if final.name == plan.shards[round(share * len(plan.shards))].file:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().publish(temporary, final)

    with pytest.raises(OSError):
        write(plan, out, ProgressDisplay(), delete_source=before, disk=Full())
    without_fingerprint(out)
    kept, parameters = open_source(copy, out)
    again = plan_conversion(kept, "native", LIMIT, parameters)
    write(again, out, ProgressDisplay(), resume=True, delete_source=after)
    assert contents(out) == whole


def test_base_scales_are_not_read_again(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", SMALL, base=True, shards=5)
    shutil.copytree(source, tmp_path / "copy")
    killed = run(tmp_path / "copy", tmp_path / "out", 60)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / JOURNAL_FILE).exists()
    assert len(list((tmp_path / "copy").glob("*.safetensors"))) < 5
    done = run(tmp_path / "copy", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    write(
        plan_conversion(open_checkpoint(source), "native", LIMIT),
        tmp_path / "o2",
        ProgressDisplay(),
    )
    assert contents(tmp_path / "out") == contents(tmp_path / "o2")


def test_deleting_from_a_later_run_on_makes_room_before_the_next_shard(source, whole, tmp_path):
    """A run without it has filled the disk: what it wrote has to free its sources at once."""
    copy, folder = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, copy)

    class Full(Disk):
        def publish(self, temporary: Path, final: Path) -> None:
            if len(list(folder.glob("model-*.safetensors"))) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            super().publish(temporary, final)

    plan = plan_conversion(open_checkpoint(copy), "native", LIMIT)
    with pytest.raises(Exception, match=r"space|full|room"):
        write(plan, folder, ProgressDisplay(), disk=Full())
    left: list[int] = []

    class Watching(Disk):
        def publish(self, temporary: Path, final: Path) -> None:
            if final.suffix == ".safetensors":
                left.append(len(list(copy.glob("*.safetensors"))))
            super().publish(temporary, final)

    write(plan, folder, ProgressDisplay(), resume=True, delete_source=True, disk=Watching())
    assert left[0] < len(list(source.glob("*.safetensors")))
    assert contents(folder) == whole
    assert list(copy.glob("*.safetensors")) == []


def test_a_shard_that_is_written_again_is_read_back_again(tmp_path):
    journal = Journal(tmp_path / "conversion.journal", Disk())
    journal.record("shard", file="a.safetensors", bytes=1, tensors={}, errors={})
    journal.record("checked", file="a.safetensors")
    assert not journal.wrote("a.safetensors")
    journal.record("shard", file="a.safetensors", bytes=1, tensors={}, errors={})
    assert read_journal(tmp_path, Disk()).checked == set()
