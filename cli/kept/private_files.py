"""Files that only their owner reads: folders of mode 0700, files of 0600, written whole or not."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from dsv4_mlx.errors import UsageError


def state_home(variables: Mapping[str, str]) -> Path:
    """Where sessions and prefixes live: `$DSV4_HOME`, else the state folder of the XDG rules."""
    if folder := variables.get("DSV4_HOME"):
        return Path(folder).expanduser()
    state = variables.get("XDG_STATE_HOME", "")
    # The XDG rules: a path that is not absolute counts as none.
    home = Path(variables["HOME"]) if variables.get("HOME") else Path.home()
    base = Path(state) if os.path.isabs(state) else home / ".local" / "state"
    return base / "dsv4"


def private_folder(folder: Path) -> Path:
    """`folder`, made where it is missing and closed to everyone else."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def write_whole(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file of mode 0600 that is there with all of `content` or not at all.

    Raises UsageError when it exists and `overwrite` was not asked for.
    """
    partial = path.with_name(f".{path.name[:200]}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _place(partial, path, overwrite)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _place(partial: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(partial, path)
        return
    try:
        os.link(partial, path)  # unlike a rename, it never replaces what came there meanwhile
    except FileExistsError:
        raise UsageError(f"{path} exists already; give another name.") from None
    except OSError:  # a disk without hard links
        if path.exists():
            raise UsageError(f"{path} exists already; give another name.") from None
        os.replace(partial, path)


def sync_folder(folder: Path) -> None:
    """Make new and renamed files in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
