"""The line discipline of a terminal: what it was before, and no echo while the program starts."""

import termios
from typing import Any, TextIO

_LOCAL = 3  # where tcgetattr keeps the local modes


class TerminalModes:
    """The line discipline as it was before: echo, whole lines, signals for keys."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._modes: list[Any] | None = None

    def remember(self) -> None:
        """What `restore` goes back to, the first time; nothing where there is no terminal."""
        if self._modes is not None:
            return
        try:
            self._modes = termios.tcgetattr(self._terminal.fileno())
        except (termios.error, OSError, ValueError):
            self._modes = None

    def hush(self) -> None:
        """Do not echo what is typed before the prompt is there, which shows it itself."""
        self.remember()
        if self._modes is None:
            return
        quiet = list(self._modes)
        quiet[_LOCAL] &= ~termios.ECHO
        self._set(quiet)

    def restore(self) -> None:
        """Back to what was remembered, as often as it is called."""
        if self._modes is not None:
            self._set(self._modes)

    def _set(self, modes: list[Any]) -> None:
        try:
            termios.tcsetattr(self._terminal.fileno(), termios.TCSANOW, modes)
        except (termios.error, OSError, ValueError):
            self._modes = None  # the terminal is gone
