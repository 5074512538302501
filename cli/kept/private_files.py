"""Files that only their owner reads: new folders of mode 0700, new files of 0600.

What was there before keeps its mode: a home folder that a group shares, an export that a web server
reads.
"""

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.files.paths import user_path


class NoHome(UsageError):
    """There is no folder for what a person keeps; says why and what to do."""


def state_home(variables: Mapping[str, str]) -> Path:
    """Where sessions and prefixes live: `$DSV4_HOME`, else the state folder of the XDG rules.

    Raises NoHome when neither is there to be found.
    """
    return own_folder(variables) or _base(variables, "XDG_STATE_HOME", ".local/state") / "dsv4"


def config_home(variables: Mapping[str, str]) -> Path:
    """Where the configuration lives: `$DSV4_HOME`, else the config folder of the XDG rules.

    Raises NoHome as `state_home` does.
    """
    return own_folder(variables) or _base(variables, "XDG_CONFIG_HOME", ".config") / "dsv4"


def own_folder(variables: Mapping[str, str]) -> Path | None:
    """`$DSV4_HOME`, None where it is not set; NoHome when it names the home of nobody."""
    if not (folder := variables.get("DSV4_HOME")):
        return None
    try:
        return user_path(folder).absolute()
    except UsageError as error:
        raise NoHome(f"DSV4_HOME: {error}") from error


def _base(variables: Mapping[str, str], name: str, below_home: str) -> Path:
    folder = variables.get(name, "")
    # The XDG rules: a path that is not absolute counts as none.
    return Path(folder) if os.path.isabs(folder) else _home(variables) / below_home


def _home(variables: Mapping[str, str]) -> Path:
    home = variables.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = ""
    if not os.path.isabs(home):
        raise NoHome(
            "there is no home folder: HOME is not set and this user has none; "
            "set DSV4_HOME to a folder."
        )
    return Path(home)


def private_folder(folder: Path, files: FileSystem) -> Path:
    """`folder`, made where it is missing, with all folders above it, for its owner alone."""
    if not folder.is_dir():
        if folder.parent != folder:
            private_folder(folder.parent, files)
        folder.mkdir(mode=0o700, exist_ok=True)
        files.check_private(folder)
    return folder


def new_file(path: Path, flags: int) -> int:
    """A descriptor of a new file of mode 0600."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def write_whole(
    path: Path, content: bytes, *, overwrite: bool = False, files: FileSystem | None = None
) -> None:
    """Write a file that is there with all of `content` or not at all: a new one of mode 0600, or
    one in the place of another, with its mode, where `overwrite` asks for it.

    Raises UsageError when it exists and `overwrite` was not asked for.
    """
    files = files or FileSystem()
    if overwrite:
        path = Path(os.path.realpath(path))  # a link stays one
    # A name of a fixed length, since that of the file may be as long as names can be.
    partial = path.with_name(f".dsv4-{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        with open(new_file(partial, os.O_WRONLY), "wb") as file:
            file.write(content)
            file.flush()
            files.sync(file.fileno(), partial)
        if overwrite:
            _copy_mode(path, partial)
            files.replace(partial, path)
        else:
            files.place_new(partial, path)
    except FileExistsError:
        raise UsageError(f"{path} exists already; give another name.") from None
    finally:
        partial.unlink(missing_ok=True)
    files.sync_folder(path.parent)


def _copy_mode(old: Path, new: Path) -> None:
    try:
        os.chmod(new, stat.S_IMODE(os.stat(old).st_mode))
    except OSError:  # a new file after all, or a file system without modes
        return
