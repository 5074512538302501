"""What is printed, and what becomes of it when the reader is gone, its disk full or all is closed.

Output is what was asked for: where it cannot be written, `OutputError` ends the command. Notes on
stderr are a courtesy, and no work stops because they are not read.
"""

import os
import sys
from contextlib import suppress
from typing import TextIO

from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.files.paths import printable


class OutputError(Dsv4Error):
    """Standard output takes no more."""


def prepare() -> None:
    """Once, at the start: nothing that is opened later may stand in for a closed stream."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # a terminal that knows fewer letters


def emit(text: str) -> None:
    """Print `text`, which may have several lines; OutputError where that is not possible."""
    if sys.stdout is None:
        raise OutputError("Standard output is closed; open it or name a file with > FILE.")
    try:
        print(text, flush=True)
    except BrokenPipeError as error:
        _let_go(sys.stdout)
        raise OutputError("Nobody reads the output any more (broken pipe).") from error
    except OSError as error:
        _let_go(sys.stdout)
        raise OutputError(
            f"The output cannot be written ({error.strerror}); make room or send it elsewhere."
        ) from error


def tell(line: str) -> None:
    """One line on stderr, if anybody can read it."""
    if sys.stderr is None:
        return
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except OSError:
        _let_go(sys.stderr)


def _let_go(stream: TextIO) -> None:
    """Let nothing be written to a stream that failed, at exit neither."""
    with suppress(OSError, ValueError):  # a stream of a test has no descriptor
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
