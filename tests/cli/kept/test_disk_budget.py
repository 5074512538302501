"""Cache files under a number of bytes: who goes, who stays, whatever others do meanwhile."""

import os
from pathlib import Path

from cli.kept.disk_budget import remove_abandoned, shrink, touch


def write(folder: Path, **sizes: int) -> list[Path]:
    """Files in the order of their last use."""
    paths = []
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.write_bytes(b"x" * size)
        os.utime(path, ns=(0, (number + 1) * 10**9))
        paths.append(path)
    return paths


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    paths = write(tmp_path, oldest=10, middle=10, newest=10)
    assert shrink(paths, 20) == [tmp_path / "oldest"]
    assert names(tmp_path) == {"middle", "newest"}


def test_a_touched_file_is_the_newest(tmp_path: Path) -> None:
    paths = write(tmp_path, oldest=10, newest=10)
    assert touch(paths[0])
    shrink(paths, 10)
    assert names(tmp_path) == {"oldest"}


def test_a_file_in_use_stays_even_above_the_budget(tmp_path: Path) -> None:
    paths = write(tmp_path, used=100, other=1)
    shrink(paths, 50, lambda path: path.name == "used")
    assert names(tmp_path) == {"used"}


def test_files_that_another_program_removed_are_no_surprise(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert not touch(gone)
    assert shrink([gone, *write(tmp_path, here=10)], 10) == []


def test_half_written_files_go_once_nobody_writes_them(tmp_path: Path) -> None:
    write(tmp_path, abandoned=1)
    (tmp_path / "growing").touch()
    remove_abandoned(tmp_path.iterdir())
    assert names(tmp_path) == {"growing"}
