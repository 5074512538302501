"""Disks that are really full, and files that a disk really refuses: one sentence, and resumable."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convert.journal import JOURNAL_FILE
from convert.plan import plan_conversion
from convert.progress import ProgressDisplay
from convert.writer import write
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from tests.convert.test_resume import ROOT, SMALL, contents

SHARD = "model-00001-of-00003.safetensors"

# Converts to a tmpfs of its own, which someone else fills up at the given write to the file of the
# given name; resumes while it is full, and once it is not. Says what it saw, and copies the result.
ON_A_SMALL_DISK = """
import contextlib, io, json, os, shutil, subprocess, sys
from pathlib import Path
import convert.writer
from convert.app import main
from convert.disk import Disk

source, mount, saved, nbytes, name, moment = sys.argv[1:]
left = int(moment)
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "none", mount], check=True)
ballast, out = Path(mount, "ballast"), Path(mount, "out")

class Filled(Disk):
    def write(self, descriptor, data, offset):
        global left
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name == name:
            left -= 1
        if left == 0:
            left = -1
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        super().write(descriptor, data, offset)

def run(*options):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main([source, str(out), "--jobs", "1", *options])
    return status, said.getvalue().splitlines()[-1]

convert.writer.Disk = Filled
seen = {"filled": run(), "marked": (out / "conversion.json").exists(), "full": run("--resume")}
ballast.unlink()
seen["roomy"] = run("--resume")
shutil.copytree(out, saved)
print(json.dumps(seen))
"""


def _in_a_namespace(*command: str) -> "subprocess.CompletedProcess[str]":
    """As root of its own user and mount namespace, which needs no rights where it is allowed."""
    return subprocess.run(
        ["unshare", "-Urm", *command], cwd=ROOT, check=False, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def mounting(tmp_path_factory) -> None:
    """Skips with the reason where a tmpfs cannot be mounted."""
    if shutil.which("unshare") is None:
        pytest.skip("no small disk: there is no `unshare`, which mounts without root on Linux")
    folder = tmp_path_factory.mktemp("mount")
    tried = _in_a_namespace("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder))
    if tried.returncode:
        reason = (tried.stderr.splitlines() or ["unknown"])[-1]
        pytest.skip(f"no small disk: mounting a tmpfs is not allowed ({reason})")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("source"), SMALL, shards=2)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> dict[str, bytes]:
    """The files of a conversion that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    write(plan_conversion(open_checkpoint(source)), folder, ProgressDisplay())
    return contents(folder)


@pytest.mark.parametrize(
    ("name", "moment"),
    [(f"{SHARD}.partial", 10), (JOURNAL_FILE, 2), ("config.json.partial", 1)],
    ids=["within a shard", "a shard is not yet in the journal", "after the shards"],
)
def test_a_small_disk_that_fills_up(name, moment, mounting, source, whole, tmp_path):
    (tmp_path / "disk").mkdir()
    needed = sum(map(len, whole.values())) + (1 << 20)  # names, journal and whole pages too
    done = _in_a_namespace(
        sys.executable, "-c", ON_A_SMALL_DISK, str(source), str(tmp_path / "disk"),
        str(tmp_path / "saved"), str(needed), name, str(moment),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    status, sentence = seen["filled"]
    assert status == 1 and not seen["marked"]
    assert sentence.startswith("error: Stopped: No space left") and "--resume" in sentence
    status, sentence = seen["full"]
    assert status and sentence.startswith(("error: The conversion needs", "error: Stopped: No"))
    assert seen["roomy"][0] == 0, seen["roomy"][1]
    assert contents(tmp_path / "saved") == whole


# Some disks hold no file above 4 GiB; a limit of the process is refused in the same way.
WITH_SMALL_FILES = """
import resource, sys
from convert.app import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def test_a_file_that_may_not_grow_so_large(source, whole, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-c", WITH_SMALL_FILES, "100000", str(source), str(out)]
    stopped = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert stopped.returncode == 1
    last = stopped.stderr.splitlines()[-1]
    assert last.startswith("error: Stopped: File too large") and "--resume" in last
    assert not (out / CONVERSION_FILE).exists()
    write(plan_conversion(open_checkpoint(source)), out, ProgressDisplay(), resume=True)
    assert contents(out) == whole
