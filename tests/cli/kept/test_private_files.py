"""Files for their owner alone, whole or not there; what others made stays as it is."""

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.kept.private_files import NoHome, config_home, private_folder, state_home, write_whole
from cli.kept.sessions import SessionStore
from cli.show.screen.history import FileHistory
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem
from tests.cli.kept_turns import begun
from tests.files.lacking import EVERY, lacking, named


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): mode(path) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DSV4_HOME": "/a/b", "XDG_STATE_HOME": "/c"}, "/a/b"),
        ({"XDG_STATE_HOME": "/c"}, "/c/dsv4"),
        ({"XDG_STATE_HOME": "relative"}, "/home/ada/.local/state/dsv4"),
        ({"XDG_STATE_HOME": "~/state"}, "/home/ada/.local/state/dsv4"),
        ({}, "/home/ada/.local/state/dsv4"),
    ],
)
def test_where_the_state_lives(variables: dict, expected: str) -> None:
    assert state_home({"HOME": "/home/ada", **variables}) == Path(expected)


@pytest.mark.parametrize("home", [None, "", "relative/home", "."])
def test_without_home_the_password_database_knows_it(
    home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.struct_passwd(("ada", "x", 1, 1, "", "/users/ada", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda number: entry)
    variables = {} if home is None else {"HOME": home}
    assert state_home(variables) == Path("/users/ada/.local/state/dsv4")
    assert config_home(variables) == Path("/users/ada/.config/dsv4")


@pytest.mark.parametrize("home", [None, "", "relative/home"])
def test_nobody_has_no_home(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    variables = {} if home is None else {"HOME": home}
    for where in (state_home, config_home):
        with pytest.raises(NoHome, match="there is no home folder"):
            where(variables)
        with pytest.raises(NoHome, match="DSV4_HOME"):
            where({**variables, "DSV4_HOME": "~nobody-of-this-name/x"})
        assert where({**variables, "DSV4_HOME": "/a"}) == Path("/a")


# What others made keeps its mode; what the program makes is for its owner alone.

FOLDER_MODES = (0o2775, 0o755, 0o1777, 0o700, 0o770, 0o711)
UMASKS = (0o022, 0o002, 0o000, 0o077)


@pytest.fixture
def with_umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0o022)

    def change(umask: int) -> None:
        os.umask(umask)

    yield change
    os.umask(before)


def use_everything(root: Path) -> None:
    """Write everything that is kept."""
    sessions = SessionStore(root / "sessions", kv_budget_bytes=0)
    with begun(sessions, "one", name="mine"):
        pass
    log, _ = sessions.open(sessions.find("mine"))
    log.close()
    sessions.summaries()
    sessions.evict()
    FileHistory(root / "history").store_string("one")


@pytest.mark.parametrize("umask", UMASKS)
@pytest.mark.parametrize("folder_mode", FOLDER_MODES)
def test_modes_of_what_was_there_stay(
    tmp_path: Path, with_umask: Callable[[int], None], folder_mode: int, umask: int
) -> None:
    with_umask(umask)
    root = tmp_path / "shared" / "dsv4"
    for folder in (root.parent, root, root / "sessions"):
        folder.mkdir()
        folder.chmod(folder_mode)
    for name in ("history", "sessions/notes"):
        (root / name).write_bytes(b'"before"\n')
        (root / name).chmod(0o664)
    before = modes(tmp_path)
    use_everything(root)
    after = modes(tmp_path)
    assert {name: after[name] for name in before} == before
    made = set(after) - set(before)
    assert made and all(after[name] == 0o600 for name in made)


@pytest.mark.parametrize("umask", UMASKS)
def test_all_that_is_made_is_private(
    tmp_path: Path, with_umask: Callable[[int], None], umask: int
) -> None:
    with_umask(umask)
    use_everything(tmp_path / "a" / "b" / "dsv4")
    assert {mode & 0o077 for mode in modes(tmp_path).values()} == {0}


@pytest.mark.parametrize("file_mode", [0o600, 0o640, 0o644, 0o664, 0o666, 0o400, 0o755])
def test_session_files_and_exports_keep_their_mode(tmp_path: Path, file_mode: int) -> None:
    sessions = SessionStore(tmp_path / "sessions", kv_budget_bytes=0)
    with begun(sessions, "one", name="mine") as log:
        pass
    log.path.chmod(file_mode)
    again, _ = sessions.open(sessions.find("mine"))
    again.close()
    assert mode(log.path) == file_mode
    export = tmp_path / "notes.md"
    export.write_bytes(b"old")
    export.chmod(file_mode)
    write_whole(export, b"new", overwrite=True)
    assert (mode(export), export.read_bytes()) == (file_mode, b"new")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.md").write_bytes(b"old")
    (tmp_path / "link.md").symlink_to("real.md")
    write_whole(tmp_path / "link.md", b"new", overwrite=True)
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "real.md").read_bytes() == b"new"


def test_a_new_folder_is_closed_to_others_with_all_above_it(tmp_path: Path) -> None:
    told: list[str] = []
    folder = private_folder(tmp_path / "a" / "b", FileSystem(told.append))
    assert mode(folder) == mode(folder.parent) == 0o700
    assert told == []


def test_a_file_is_for_its_owner_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"text")
    assert mode(tmp_path / "file") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "💾" * 63, "x" * 251 + ".md"])
def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path, name: str) -> None:
    for content in (b"one", b"two"):
        write_whole(tmp_path / name, content, overwrite=True)
        assert (tmp_path / name).read_bytes() == content


def test_a_file_that_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        write_whole(file, b"theirs")
    assert file.read_bytes() == b"mine"
    write_whole(file, b"theirs", overwrite=True)
    assert file.read_bytes() == b"theirs"


@pytest.mark.parametrize("failing", EVERY, ids=named)
def test_whatever_a_disk_lacks_a_file_is_written(
    failing: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    lacking(monkeypatch, *failing)
    write_whole(file, b"one")
    with pytest.raises(UsageError, match="exists already"):
        write_whole(file, b"two")
    assert file.read_bytes() == b"one"
    write_whole(file, b"three", overwrite=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"three"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(TypeError):
        write_whole(file, "no bytes", overwrite=True)  # type: ignore[arg-type]
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine"]
