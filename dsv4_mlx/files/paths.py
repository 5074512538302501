"""Paths as people write them, and as they are shown."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsv4_mlx.errors import UsageError

_FIRST_ODD_BYTE, _LAST_ODD_BYTE = 0xDC80, 0xDCFF
"""How Python spells the bytes of a path that are no UTF-8."""


def user_path(text: str | Path) -> Path:
    """The path, `~` and `~name` at its beginning replaced by home folders, as a shell does it.

    Where the shell leaves them to programs (`--x=~/y`) they would else become folders of that name.
    A name that is no user's is a file's if there is one; UsageError if there is none, or no path.
    """
    written = os.fspath(text)
    if not written:
        raise UsageError("A path is empty, expected the name of a file or folder.")
    if not written.startswith("~"):
        return _literal(Path(written))
    try:
        return Path(written).expanduser()
    except RuntimeError as error:
        if os.path.lexists(written):
            return _literal(Path(written))
        name = written.partition("/")[0]
        raise UsageError(
            f"{printable(written)} begins with the home folder of a user, and there is none for "
            f"{printable(name)}; write ./{printable(written)} for a folder of that name."
        ) from error


def _literal(path: Path) -> Path:
    """A path that stays the same when it is expanded (again): `./~` is no home folder."""
    return path.absolute() if path.parts[:1] and path.parts[0].startswith("~") else path


def is_utf8(text: str) -> bool:
    """Whether it has a UTF-8 form: names of files may hold bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def utf8_spelling(path: Path) -> Iterator[str]:
    """The name of a file for libraries that take UTF-8 alone, as MLX, while they open it."""
    if is_utf8(str(path)):
        yield str(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def printable(text: str) -> str:
    """One line that can be shown: what is no visible character is an escape, as \\xff or \\n."""
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    if _FIRST_ODD_BYTE <= code <= _LAST_ODD_BYTE:
        return f"\\x{code & 0xFF:02x}"
    return character.encode("unicode_escape").decode("ascii")
