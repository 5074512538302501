"""System calls that fail at any point of a conversion: it goes on without what only protects, and
ends whole or with one sentence, resumable, with nothing lost."""

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from convert.app import main
from convert.destination import only_converter
from convert.disk import Disk, partial
from convert.hub import HubFile
from convert.room import free_bytes
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem, Protection
from dsv4_mlx.files.safetensors_files import read_header
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE
from tests.convert.small import SMALL, contents
from tests.examples import examples

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="has calls that only Linux has")
# What only protects, with the errors by which file systems say that they lack it.
LACKING = {
    "flock": (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EBADF, errno.EINVAL),
    "fsync": (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP),
    "replace": (errno.EPERM, errno.EEXIST, errno.ENOTSUP, errno.EBUSY),
    "posix_fadvise": (errno.EINVAL, errno.ENOSYS, errno.ESPIPE, errno.EPERM),
    "statvfs": (errno.ENOSYS, errno.ENOTSUP),
}
# What a conversion cannot do without, and disks that break.
NEEDED = {
    "open": (errno.EACCES, errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE),
    "pwrite": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "replace": (errno.EIO, errno.ENOSPC, errno.EROFS),
    "unlink": (errno.EPERM, errno.EACCES, errno.EROFS, errno.EIO),
    "mkdir": (errno.EACCES, errno.EROFS, errno.ENOSPC),
    "scandir": (errno.EACCES, errno.EIO),
    "stat": (errno.EIO, errno.EACCES, errno.ESTALE),
}
OWNERS = {"flock": fcntl}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("release"), SMALL, shards=2, dspark=True)


@pytest.fixture(scope="module")
def whole(release, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert main([str(release), str(folder)]) == 0
    return contents(folder)


class Failing:
    """A system call that fails with `number` from its call `first` on, `times` of them, where one
    of its arguments lies below `folder`; descriptors count too."""

    def __init__(self, call: Callable, number: int, first: int, times: int, folder: Path):
        self._call, self._number, self._folder = call, number, str(folder)
        self._first, self._last, self.calls = first, first + times, 0

    def __call__(self, *arguments, **options):
        if self._is_below(arguments[0] if arguments else None):
            self.calls += 1
            if self._first <= self.calls - 1 < self._last:
                raise OSError(self._number, os.strerror(self._number), self._named(arguments[0]))
        return self._call(*arguments, **options)

    def _is_below(self, argument: object) -> bool:
        if isinstance(argument, int) and not isinstance(argument, bool):
            argument = os.readlink(f"/proc/self/fd/{argument}")
        return str(argument).startswith(self._folder)

    def _named(self, argument: object) -> str | None:
        return None if isinstance(argument, int) else str(argument)


def convert(source: Path, out: Path, *options: str) -> int:
    return main([str(source), str(out), "--jobs", "1", *options])


def require_a_sentence(status: int, said: str) -> None:
    assert status in (1, 2)
    last = said.splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in said


def require_all_is_somewhere(source: Path, out: Path, release: Path) -> None:
    """Whole files of the source, or a result that says that it is whole."""
    if (out / CONVERSION_FILE).exists():
        assert main(["verify", str(out), "--against", str(release)]) == 0
    else:
        there = {name for path in source.glob("*.safetensors") for name in read_header(path)}
        assert there == {n for path in release.glob("*.safetensors") for n in read_header(path)}


CALLS = st.sampled_from(
    [(name, number) for table in (LACKING, NEEDED) for name in table for number in table[name]]
)


@LINUX
@examples(12, slow=40, suppress_health_check=list(HealthCheck))
@given(call=CALLS, first=st.integers(0, 30), times=st.sampled_from([1, 3, 10**9]),
       resume=st.booleans())  # fmt: skip
def test_whichever_call_fails(call, first, times, resume, release, whole, tmp_path_factory, capsys):
    name, number = call
    out = tmp_path_factory.mktemp("disk") / "out"
    owner = OWNERS.get(name, os)
    with pytest.MonkeyPatch.context() as patched:
        failing = Failing(getattr(owner, name), number, first, times, out.parent)
        patched.setattr(owner, name, failing)
        status = convert(release, out, *["--resume"] * resume)
    said = capsys.readouterr().err
    if number in LACKING.get(name, ()):
        assert status == 0, said
    if status:
        require_a_sentence(status, said)
        require_all_is_somewhere(release, out, release)
        assert convert(release, out, "--resume") == 0, capsys.readouterr().err
    assert contents(out) == whole


@LINUX
@examples(8, slow=20, suppress_health_check=list(HealthCheck))
@given(call=CALLS, first=st.integers(0, 40), times=st.sampled_from([1, 10**9]))
def test_whichever_call_fails_while_the_source_goes(
    call, first, times, release, whole, tmp_path_factory, capsys
):
    name, number = call
    folder = tmp_path_factory.mktemp("disk")
    source, out = shutil.copytree(release, folder / "source"), folder / "out"
    owner = OWNERS.get(name, os)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, Failing(getattr(owner, name), number, first, times, folder))
        status = convert(source, out, "--delete-source")
    said = capsys.readouterr().err
    if status:
        require_a_sentence(status, said)
        assert convert(source, out, "--resume", "--delete-source") == 0, capsys.readouterr().err
    assert contents(out) == whole
    assert not list(source.glob("*.safetensors"))


@LINUX
@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        *(("flock", number, Protection.LOCKS.value) for number in LACKING["flock"]),
        *(("fsync", number, Protection.SYNC.value) for number in LACKING["fsync"]),
        *(("posix_fadvise", number, "may come from there") for number in LACKING["posix_fadvise"]),
    ],
)
def test_what_is_missing_is_said_once(name, number, words, release, whole, tmp_path, capsys):
    source, out = shutil.copytree(release, tmp_path / "source"), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patched:
        owner = OWNERS.get(name, os)
        patched.setattr(owner, name, Failing(getattr(owner, name), number, 0, 10**9, tmp_path))
        assert convert(source, out, "--delete-source") == 0
    assert capsys.readouterr().err.count(words) == 1
    assert contents(out) == whole


@LINUX
def test_a_file_in_the_place_of_another_without_renames(release, tmp_path, capsys):
    """The card of a finished folder is written anew."""
    out = tmp_path / "out"
    assert convert(release, out) == 0
    (tmp_path / "text").write_text("some words that are compared. " * 9)
    words = ["verify", str(out), "--level", "behaviour", "--text", str(tmp_path / "text")]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", Failing(os.replace, errno.EEXIST, 0, 10**9, tmp_path))
        assert main(words) == 0
    assert Protection.REPLACE.value in capsys.readouterr().err
    assert "## Behaviour" in (out / "CARD.md").read_text()
    assert not list(out.glob("*.partial")) and not list(out.glob(".*.old"))


def test_another_converter_is_told_from_a_disk_without_locks(tmp_path):
    said: list[str] = []
    files = FileSystem(said.append)
    with (
        only_converter(tmp_path, files),
        pytest.raises(UsageError),
        only_converter(tmp_path, files),
    ):
        pytest.fail("two hold it")
    assert said == []


@pytest.mark.parametrize(
    "name", ["a" * 255, "a" * 143, "é" * 127, "\udcff" * 250, "model.safetensors", "a" * 135]
)
def test_names_of_unfinished_files_are_short_enough(name, tmp_path):
    for unfinished in (partial(tmp_path / name), HubFile(1, "f" * 64).partial(tmp_path / name)):
        assert len(os.fsencode(unfinished.name)) <= 143
        assert unfinished.parent == tmp_path and unfinished.name.endswith(".partial")
    assert partial(tmp_path / "model.safetensors").name == "model.safetensors.partial"


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL])
def test_a_name_that_the_disk_cannot_write_is_left_out(number, release, tmp_path, capsys):
    source = shutil.copytree(release, tmp_path / "source")
    (source / "encoding").mkdir()
    (source / "encoding" / "what: notes?.txt").write_text("notes")

    class Strict(Disk):
        def put(self, path: Path, data: bytes) -> None:
            if ":" in path.name:
                raise OSError(number, os.strerror(number), str(path))
            super().put(path, data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("convert.writer.Disk", Strict)
        assert convert(source, tmp_path / "out") == 0
    assert "what: notes?.txt is left out" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0


def test_two_names_that_are_one_to_the_disk(release, tmp_path, capsys):
    """On a disk that ignores case the second would go over the first."""
    source = shutil.copytree(release, tmp_path / "source")
    for name in ("LICENSE", "LICENSE-Model", "LICENSE-MODEL"):
        (source / name).write_text(name)

    class Folding(Disk):
        """Links stand for the other spelling of a name."""

        def put(self, path: Path, data: bytes) -> None:
            super().put(path, data)
            if path.name == "LICENSE-MODEL":
                (path.parent / "LICENSE-Model").symlink_to(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("convert.writer.Disk", Folding)
        assert convert(source, tmp_path / "out") == 0
    assert "LICENSE-Model is left out: the disk" in capsys.readouterr().err
    assert (tmp_path / "out" / "LICENSE-MODEL").read_text() == "LICENSE-MODEL"
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_a_disk_that_does_not_tell_its_size(release, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "convert.room.shutil.disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 0)
    )
    assert free_bytes(tmp_path / "absent" / "more") is None
    assert convert(release, tmp_path / "out", "--dry-run") == 0
    assert "does not tell how much is free" in capsys.readouterr().out
    assert convert(release, tmp_path / "out") == 0
