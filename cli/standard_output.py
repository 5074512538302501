"""Standard output, checked: where it cannot be written, the run ends with one sentence.

A reader that leaves early, as `head` does, stays BrokenPipeError: that is not worth a sentence.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TextIO, cast

from dsv4_mlx.errors import Dsv4Error


class UnwrittenError(Dsv4Error, OSError):
    """Standard output takes no more; also an OSError, for those who write to any stream."""


class CheckedOutput:
    """A stream that names itself when it cannot be written; UnwrittenError says why."""

    def __init__(self, stream: IO[Any]) -> None:
        self._stream = stream

    def write(self, text: Any) -> int:
        with _checked():
            return self._stream.write(text)

    def flush(self) -> None:
        with _checked():
            self._stream.flush()

    @property
    def buffer(self) -> "CheckedOutput":
        """The stream of bytes below a stream of text."""
        return CheckedOutput(cast(TextIO, self._stream).buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def checked(stream: TextIO) -> TextIO:
    """`stream` as a CheckedOutput."""
    return cast(TextIO, CheckedOutput(stream))


def closed_output() -> TextIO:
    """What stands in for an output that was closed: as good as closed, and it takes the place, so
    that no file which is opened later gets what is printed."""
    return open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def let_go(stream: TextIO) -> None:
    """Write what `stream` still holds, nowhere if it fails, so that Python does not complain of it
    at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


@contextmanager
def _checked() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, UnwrittenError):
        raise
    except OSError as error:
        raise UnwrittenError(_sentence(error)) from error


def _sentence(error: OSError) -> str:
    if error.errno == errno.EBADF:
        return "stdout is closed; open it, or write to a file with > FILE."
    return f"stdout: {error.strerror}; make room, or write elsewhere with > FILE."
