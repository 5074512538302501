"""Files on file systems that lack something: nothing is lost, and it is said once."""

import errno
import fcntl
import os
import random
from pathlib import Path

import pytest

from dsv4_mlx.files import file_systems
from dsv4_mlx.files.file_systems import FileSystem, Protection, write_at
from tests.files.lacking import EVERY, NO_LOCKS, lacking, named, refused


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def files(told: list[str]) -> FileSystem:
    return FileSystem(told.append)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("failing", EVERY, ids=named)
def test_whatever_is_missing_files_are_written_whole(
    failing: tuple[str, int],
    files: FileSystem,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = random.randbytes(9_000), random.randbytes(5_000)
    monkeypatch.setattr(file_systems, "_PIECE_BYTES", 4_000)
    (tmp_path / "kept").write_bytes(old)
    lacking(monkeypatch, *failing)
    for _ in range(2):
        for name, give_name in (("kept", files.replace), ("fresh", files.place_new)):
            temporary = tmp_path / "temporary"
            with open(temporary, "wb") as file:
                files.lock(file.fileno(), temporary)
                write_at(file.fileno(), new, 0)
                files.sync(file.fileno(), temporary)
            give_name(temporary, tmp_path / name)
            files.sync_folder(tmp_path)
            assert (tmp_path / name).read_bytes() == new
        (tmp_path / "fresh").unlink()
    assert names(tmp_path) == ["kept"]
    assert len(told) == len(files.missing) <= 1


@pytest.mark.parametrize(
    ("call", "number", "missing"),
    [
        ("flock", errno.ENOLCK, Protection.LOCKS),
        ("fsync of a folder", errno.EINVAL, Protection.SYNC),
        ("rename over a file", errno.EEXIST, Protection.REPLACE),
    ],
)
def test_what_is_missing_is_named_with_the_place(
    call: str,
    number: int,
    missing: Protection,
    files: FileSystem,
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking(monkeypatch, call, number)
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    with open(tmp_path / "old", "rb+") as file:
        files.lock(file.fileno(), tmp_path)
    files.sync_folder(tmp_path)
    files.replace(tmp_path / "new", tmp_path / "old")
    assert files.missing == {missing}
    assert len(told) == 1 and str(tmp_path) in told[0] and missing.value in told[0]


def test_a_lock_is_held_until_the_file_is_closed(files: FileSystem, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with open(path, "rb+") as one, open(path, "rb+") as other:
        assert files.lock(one.fileno(), path)
        with pytest.raises(BlockingIOError):
            files.lock(other.fileno(), path)
        one.close()
        assert files.lock(other.fileno(), path)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_both_words_for_a_held_lock_mean_one(
    number: int, files: FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch, fcntl, "flock", number)
    with open(tmp_path / "file", "wb") as file, pytest.raises(BlockingIOError):
        files.lock(file.fileno(), tmp_path / "file")
    assert not files.missing


@pytest.mark.parametrize("call", ["link", "rename over a file", "rename", *dict(NO_LOCKS)])
def test_a_file_that_is_there_is_never_replaced_by_a_new_one(
    call: str, files: FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "temporary").write_bytes(b"theirs")
    refused(monkeypatch, os, "link", errno.EPERM)
    lacking(monkeypatch, call, errno.EPERM)
    with pytest.raises(FileExistsError):
        files.place_new(tmp_path / "temporary", tmp_path / "mine")
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert (tmp_path / "temporary").read_bytes() == b"theirs"


@pytest.mark.parametrize("room", range(0, 5_000, 500))
def test_a_disk_that_fills_up_without_renames_keeps_the_old_file(
    room: int, files: FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy beside takes 2,000 bytes of the room, and the old file's place is there already."""
    old, new = random.randbytes(2_000), random.randbytes(4_900)
    (tmp_path / "kept").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    lacking(monkeypatch, "rename", errno.ENOSYS)
    left, write = room, os.write

    def filling(descriptor: int, data: bytes) -> int:
        nonlocal left
        if bytes(data) == old and left < 5_000 and os.fstat(descriptor).st_size >= 2_000:
            return write(descriptor, data)  # over bytes that it has
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, data[:left])
        left -= taken
        return taken

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(OSError, match="No space left"):
        files.replace(tmp_path / "new", tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == old
    assert (tmp_path / "new").read_bytes() == new
    assert names(tmp_path) == ["kept", "new"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_does_not_take_a_file_is_an_error(
    number: int, files: FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(monkeypatch, os, "fsync", number)
    with open(tmp_path / "file", "wb") as file, pytest.raises(OSError):
        files.sync(file.fileno(), tmp_path / "file")


def test_a_replacement_that_is_not_possible_leaves_both(files: FileSystem, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "new").write_bytes(b"new")
    with pytest.raises(OSError):
        files.replace(tmp_path / "new", tmp_path / "folder")
    with pytest.raises(FileNotFoundError):
        files.replace(tmp_path / "missing", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == b"new" and (tmp_path / "folder").is_dir()
    assert not files.missing


def test_files_that_are_open_to_others_are_told_about(
    files: FileSystem, told: list[str], tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    files.check_private(tmp_path)
    assert told == []
    tmp_path.chmod(0o755)
    files.check_private(tmp_path)
    files.check_private(tmp_path)
    assert len(told) == 1 and "other users" in told[0]
