"""The keys of a terminal, and the modes it has to get back."""

import select
import termios
from typing import Any, TextIO

from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyPress

_AT_ONCE = 1 << 16


class TerminalInput(Vt100Input):
    """prompt-toolkit's input, which takes a paste in few pieces and notices a lost terminal."""

    def read_keys(self) -> list[KeyPress]:
        """What was typed since."""
        data = self.stdin_reader.read(_AT_ONCE)
        if not data and self._hung_up():
            # prompt-toolkit takes the failing read for a signal, and would try again for ever.
            self.stdin_reader.closed = True
        self.vt100_parser.feed(data)
        keys, self._buffer = self._buffer, []
        return keys

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._fileno, select.POLLIN)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


class TerminalModes:
    """The line discipline as it was before: echo, whole lines, signals for keys."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal
        self._modes: list[Any] | None = None

    def remember(self) -> None:
        """What `restore` goes back to; nothing where there is no terminal."""
        try:
            self._modes = termios.tcgetattr(self._terminal.fileno())
        except (termios.error, OSError, ValueError):
            self._modes = None

    def restore(self) -> None:
        """Back to what was remembered, as often as it is called."""
        if self._modes is None:
            return
        try:
            termios.tcsetattr(self._terminal.fileno(), termios.TCSANOW, self._modes)
        except (termios.error, OSError, ValueError):
            self._modes = None  # the terminal is gone
