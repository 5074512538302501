"""Files for their owner alone, whole or not there."""

import stat
from pathlib import Path

import pytest

from cli.kept.private_files import private_folder, state_home, write_whole
from dsv4_mlx.errors import UsageError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DSV4_HOME": "/a/b", "XDG_STATE_HOME": "/c"}, "/a/b"),
        ({"XDG_STATE_HOME": "/c"}, "/c/dsv4"),
        ({"XDG_STATE_HOME": "relative"}, "/home/ada/.local/state/dsv4"),
        ({}, "/home/ada/.local/state/dsv4"),
    ],
)
def test_where_the_state_lives(variables: dict, expected: str) -> None:
    assert state_home({"HOME": "/home/ada", **variables}) == Path(expected)


def test_an_open_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True, mode=0o755)
    assert mode(private_folder(folder)) == 0o700


def test_a_file_is_for_its_owner_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"text")
    assert mode(tmp_path / "file") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        write_whole(file, b"theirs")
    assert file.read_bytes() == b"mine"
    write_whole(file, b"theirs", overwrite=True)
    assert file.read_bytes() == b"theirs"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(TypeError):
        write_whole(file, "no bytes", overwrite=True)  # type: ignore[arg-type]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
