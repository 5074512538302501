"""The keys of a terminal."""

import select

from prompt_toolkit.input.vt100 import Vt100Input, raw_mode
from prompt_toolkit.key_binding import KeyPress

_AT_ONCE = 1 << 16
# What the line discipline made of keys while it read whole lines: Enter, and Ctrl-D, for which
# Linux keeps a NUL.
_AS_TYPED = str.maketrans({"\n": "\r", "\0": "\x04"})


class TerminalInput(Vt100Input):
    """prompt-toolkit's input, which takes a paste in few pieces and notices a lost terminal."""

    def read_keys(self) -> list[KeyPress]:
        """What was typed since."""
        data = self.stdin_reader.read(_AT_ONCE)
        if not data and self._hung_up():
            # prompt-toolkit takes the failing read for a signal, and would try again for ever.
            self.stdin_reader.closed = True
        return self._keys(data)

    def read_typed_ahead(self) -> list[KeyPress]:
        """What was typed while the terminal read whole lines, as the keys that were pressed; from
        here on it hands over each key."""
        raw_mode(self._fileno).__enter__()
        data = ""
        while not self.stdin_reader.closed and self._waits():
            piece = self.stdin_reader.read(_AT_ONCE)
            if not piece and self._hung_up():
                break  # `read_keys` will find out as well
            data += piece
        return self._keys(data.translate(_AS_TYPED))

    def _keys(self, data: str) -> list[KeyPress]:
        self.vt100_parser.feed(data)
        keys, self._buffer = self._buffer, []
        return keys

    def _waits(self) -> bool:
        return bool(select.select([self._fileno], [], [], 0)[0])

    def _hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._fileno, select.POLLIN)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
