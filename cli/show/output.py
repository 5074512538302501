"""Everything the program writes: answers, reasoning, notes, with model text made harmless.

Answers go to stdout, all else to stderr. Text from a model is data; `cli.safe` says what of it may
reach a terminal.
"""

from contextlib import suppress
from typing import TextIO

from cli.environment import Environment
from cli.safe import harmless

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class PlainOutput:
    """Writes one conversation for a person: answer on stdout, reasoning and notes on stderr.

    An answer that cannot be written is an error; what nobody can read on stderr is none.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._stdout_column = self._stderr_column = 0
        self._transient = 0

    def answer(self, text: str) -> None:
        """A piece of the answer, on stdout at once."""
        self._clear_transient()
        self._close_line(stderr=True)
        self._stdout_column = self._write(
            self._environment.stdout, harmless(text), self._stdout_column
        )

    def reasoning(self, text: str) -> None:
        """A piece of the reasoning, on stderr, dim where styles are welcome."""
        self._clear_transient()
        self._close_line(stderr=False)
        safe = harmless(text)
        shown = f"{_DIM}{safe}{_PLAIN}" if safe and self._environment.has_styles else safe
        self._tell(shown)
        if safe:
            self._stderr_column = _column_after(safe, self._stderr_column)

    def note(self, sentence: str) -> None:
        """One line on stderr, on a line of its own."""
        self.close_lines()
        self._tell(harmless(sentence) + "\n")

    def aside(self, sentence: str) -> None:
        """One line on stderr in the middle of an answer, which a pipe or a file gets unbroken."""
        if self._environment.stdout.isatty():
            self.note(sentence)
            return
        self._clear_transient()
        self._close_line(stderr=True)
        self._write(self._environment.stderr, harmless(sentence) + "\n", 0)

    def error(self, sentence: str) -> None:
        """One line on stderr that says what failed."""
        self.note(f"dsv4-chat: {sentence}")

    def progress(self, text: str) -> None:
        """A line that the next output replaces; only where a person watches."""
        if self._environment.errors_terminal:
            self._close_line(stderr=True)
            self._close_line(stderr=False)
            self._clear_transient()
            self._tell(text)
            self._transient = len(text)

    def close_lines(self) -> None:
        """Ends whatever line is open, so the next writer starts at the left edge."""
        self._clear_transient()
        self._close_line(stderr=True)
        self._close_line(stderr=False)

    def _clear_transient(self) -> None:
        if self._transient:
            # Spaces instead of an escape code, so that NO_COLOR means no escape codes at all.
            self._tell(f"\r{' ' * self._transient}\r")
            self._transient = 0

    def _close_line(self, *, stderr: bool) -> None:
        if stderr and self._stderr_column:
            self._tell("\n")
            self._stderr_column = 0
        elif not stderr and self._stdout_column:
            self._stdout_column = self._write(self._environment.stdout, "\n", 0)

    def _tell(self, text: str) -> None:
        with suppress(OSError):
            self._write(self._environment.stderr, text, 0)

    @staticmethod
    def _write(stream: TextIO, text: str, column: int) -> int:
        if not text:
            return column
        stream.write(text)
        stream.flush()
        return _column_after(text, column)


def _column_after(text: str, column: int) -> int:
    last = text.rpartition("\n")[2]
    return len(last) if "\n" in text else column + len(text)
