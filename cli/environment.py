"""The world around one run: three streams, what they can show, and how the run may end.

Everything the program knows about its surroundings is here, so a test hands in string streams and a
dictionary and sees all that a person would see.
"""

import errno
import os
import select
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from io import TextIOWrapper, UnsupportedOperation
from pathlib import Path
from typing import Final, TextIO

from cli.standard_output import checked, closed_output
from cli.texts import decoded
from dsv4_mlx.errors import UsageError

KEY_VARIABLE: Final = "DSV4_API_KEY"


class ExitStatus(IntEnum):
    """How `dsv4-chat` ends."""

    OK = 0
    ERROR = 1  # something failed; one sentence on stderr says what
    USAGE = 2  # options that do not exist or contradict each other
    INTERRUPTED = 130  # Ctrl-C, 128 + SIGINT as shells count


def working_folder() -> Path:
    """Where this program was started; UsageError where that is gone."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UsageError(
            f"the working folder cannot be found: {error.strerror}; start in another one."
        ) from error


def _is_terminal(stream: TextIO) -> bool:
    return not stream.closed and stream.isatty()


def _process_output(stream: TextIO | None) -> TextIO:
    """A stream of this process that takes any text, if it takes any at all."""
    if stream is None:
        return closed_output()
    _block(stream)
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?"
    return stream


def _process_input(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, encoding="utf-8")
    _block(stream)
    return stream


def _block(stream: TextIO) -> None:
    """Wait where a pipe is full or empty: some programs hand on pipes that answer with an error."""
    with suppress(OSError, ValueError):
        os.set_blocking(stream.fileno(), True)


def own_variables() -> dict[str, str]:
    """The variables of this process as they were when it started.

    From here on the key is not among those that other programs inherit, such as a command that a
    model runs.
    """
    found = dict(os.environ)
    os.environ.pop(KEY_VARIABLE, None)
    return found


@dataclass
class Environment:
    """Streams and variables of one run; every attribute can be replaced."""

    stdin: TextIO = field(default_factory=lambda: _process_input(sys.stdin))
    stdout: TextIO = field(default_factory=lambda: checked(_process_output(sys.stdout)))
    stderr: TextIO = field(default_factory=lambda: _process_output(sys.stderr))
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def reads_terminal(self) -> bool:
        """A person types on stdin."""
        return _is_terminal(self.stdin)

    @property
    def errors_terminal(self) -> bool:
        """A person watches stderr, so short-lived progress may be drawn there."""
        return _is_terminal(self.stderr) and not self.is_dumb

    @property
    def is_dumb(self) -> bool:
        """The terminal moves no cursor: no line editor, no redrawn lines."""
        return self.variables.get("TERM", "") in ("", "dumb")

    @property
    def edits_lines(self) -> bool:
        """A line editor can draw its prompt: both ends are a capable terminal."""
        return self.reads_terminal and _is_terminal(self.stdout) and not self.is_dumb

    @property
    def has_styles(self) -> bool:
        """Escape codes are welcome on stderr (https://no-color.org)."""
        return self.errors_terminal and not self.variables.get("NO_COLOR")

    def stdin_stays_silent(self, seconds: float) -> bool:
        """Whether neither text nor its end comes on stdin for so long."""
        try:
            descriptor = self.stdin.fileno()
        except UnsupportedOperation:
            return False
        return not select.select([descriptor], [], [], seconds)[0]

    def read_text(self) -> str:
        """All of stdin as UTF-8 text, "" when there is none; a byte order mark and CRLF as in a
        file.

        Raises UsageError for bytes that are not UTF-8, or that cannot be read.
        """
        binary = getattr(self.stdin, "buffer", None)
        try:
            return decoded(self.stdin.read().encode() if binary is None else binary.read())
        except OSError as error:
            closed = error.errno == errno.EBADF
            reason = "it was not opened for reading" if closed else error.strerror
            raise UsageError(f"stdin cannot be read: {reason}.") from error
        except UnicodeDecodeError as error:
            raise UsageError(
                f"stdin must be UTF-8 text and byte {error.start} is not; "
                "convert it first, for example with iconv."
            ) from error
