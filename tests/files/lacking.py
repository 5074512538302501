"""File systems that lack something, imitated by calls that fail as they do there."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest

Refuse = Callable[..., bool]


def refused(
    patch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    number: int,
    when: Refuse = lambda *arguments, **named: True,
) -> None:
    """Let the call `module.name` fail with errno `number`, `when` its arguments say so."""
    call = getattr(module, name)

    def failing(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            raise OSError(number, os.strerror(number))
        return call(*arguments, **named)

    patch.setattr(module, name, failing)


def is_folder(descriptor: int) -> bool:
    """Whether the open file is a folder."""
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def replaces(source: Any, target: Any, **_: Any) -> bool:
    """Whether a rename would take the place of something."""
    return os.path.lexists(target)


NO_LOCKS = [("flock", number) for number in (
    errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM,
    errno.EBADF,
)]  # fmt: skip
NO_SYNC = [(call, number) for call in ("fsync", "fsync of a folder") for number in (
    errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF,
)]  # fmt: skip
NO_FOLDER_SYNC = [("fsync of a folder", number) for number in (errno.EIO, errno.EACCES)]
NO_REPLACE = [(call, number) for call, numbers in (
    ("rename over a file", (errno.EEXIST, errno.EPERM, errno.EACCES, errno.EBUSY)),
    ("rename", (errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EXDEV)),
) for number in numbers]  # fmt: skip
NO_LINKS = [("link", number) for number in (
    errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES,
)]  # fmt: skip
NO_MODES = [("chmod", number) for number in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)]

EVERY = [*NO_LOCKS, *NO_SYNC, *NO_FOLDER_SYNC, *NO_REPLACE, *NO_LINKS, *NO_MODES]


def lacking(patch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Let `call`, of the lists above, fail with errno `number` from here on."""
    match call:
        case "flock":
            refused(patch, fcntl, "flock", number)
        case "fsync":
            refused(patch, os, "fsync", number)
        case "fsync of a folder":
            refused(patch, os, "fsync", number, is_folder)
        case "rename over a file":
            refused(patch, os, "replace", number, replaces)
            refused(patch, os, "rename", number, replaces)
        case "rename":
            refused(patch, os, "replace", number)
            refused(patch, os, "rename", number)
        case "link":
            refused(patch, os, "link", number)
        case "chmod":
            refused(patch, os, "chmod", number)
            refused(patch, os, "fchmod", number)


def named(failing: tuple[str, int]) -> str:
    """For the name of a test."""
    call, number = failing
    return f"{call}-{errno.errorcode[number]}"
