"""The terminal as prompt-toolkit writes to it: one write for one change of the screen.

prompt-toolkit flushes several times while it erases, prints and draws again, and each flush could
become visible. Here everything between `begin` and `end` reaches the terminal in one write, inside
a synchronized update (mode 2026) so that terminals that know it show all of it at once; the others
ignore the mode, as they must ignore any private mode that they do not know.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TextIO

from prompt_toolkit.data_structures import Size
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"
_FALLBACK = Size(rows=24, columns=80)
# Cursor visible, lines wrap, no styles: what a shell expects, whatever was half-written before.
_RESTORED = "\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?2004l"


class TerminalOutput(Vt100_Output):
    """Writes whole changes, keeps quiet about a terminal that is gone, and knows one size.

    The size changes in `measure` alone, so that everything drawn between two resizes agrees on it.
    """

    def __init__(self, stdout: TextIO, variables: Mapping[str, str]) -> None:
        super().__init__(
            stdout,
            lambda: self.size,
            term=variables.get("TERM"),
            default_color_depth=colour_depth(variables),
            enable_cpr=False,  # its answer would be typed into the shell after a kill
        )
        self.lost = False
        """Writing failed: nobody watches any more."""
        self._depth = 0
        self.size = _FALLBACK
        self.measure()

    def measure(self) -> Size:
        """Ask the terminal for its size; 80x24 where it has none."""
        self.size = self._asked_size()
        return self.size

    def has_its_size(self) -> bool:
        """Whether the terminal has the size that was measured."""
        return self._asked_size() == self.size

    def _asked_size(self) -> Size:
        try:
            columns, rows = os.get_terminal_size(self.stdout.fileno())
        except (OSError, ValueError):
            columns, rows = 0, 0
        return Size(rows=rows or _FALLBACK.rows, columns=columns or _FALLBACK.columns)

    def written(self) -> tuple[int, bool | None]:
        """How much of a change is written, for `take_back`."""
        return len(self._buffer), self._cursor_visible

    def take_back(self, written: tuple[int, bool | None]) -> None:
        """Forget what was written since, inside `one_write`."""
        length, self._cursor_visible = written
        del self._buffer[length:]

    @contextmanager
    def one_write(self) -> Iterator[None]:
        """All output inside becomes one write; may be nested."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self.flush()

    def flush(self) -> None:
        if self._depth or not self._buffer:
            return
        if self.lost:
            self._buffer.clear()
            return
        self._buffer.insert(0, _BEGIN_UPDATE)
        self._buffer.append(_END_UPDATE)
        try:
            super().flush()
        except (OSError, ValueError):
            self._lose()

    def _lose(self) -> None:
        """What the stream still holds goes nowhere, or Python would complain of it at exit."""
        self.lost = True
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stdout.fileno())
            os.close(nowhere)

    def restore(self) -> None:
        """Leave the terminal as a shell expects it; safe to call twice and after a crash."""
        self._depth = 0
        self._buffer.append(_RESTORED)
        self.flush()
        self._cursor_visible = None

    def show_cursor(self) -> None:
        if not self._cursor_visible:
            self._cursor_visible = True
            self.write_raw("\x1b[?25h")  # the base class would also stop a cursor from blinking

    # prompt-toolkit toggles bracketed paste around everything it prints; a paste that starts in
    # between would be typed line by line. `paste_on` and `paste_off` are called by the surface.
    def enable_bracketed_paste(self) -> None: ...

    def disable_bracketed_paste(self) -> None: ...

    def paste_on(self) -> None:
        """Let the terminal mark what is pasted."""
        self.write_raw("\x1b[?2004h")

    def paste_off(self) -> None:
        """No more marks."""
        self.write_raw("\x1b[?2004l")


def colour_depth(variables: Mapping[str, str]) -> ColorDepth:
    """How many colours a terminal says it has (https://no-color.org)."""
    if variables.get("NO_COLOR"):
        return ColorDepth.DEPTH_1_BIT
    if variables.get("COLORTERM", "").strip().lower() in ("truecolor", "24bit"):
        return ColorDepth.DEPTH_24_BIT
    term = variables.get("TERM", "")
    return ColorDepth.DEPTH_8_BIT if "256" in term else ColorDepth.DEPTH_4_BIT


def reflows(variables: Mapping[str, str]) -> bool:
    """Whether the terminal wraps long lines anew when it becomes narrower; most do.

    xterm and the consoles of Linux and GNU screen cut them instead.
    """
    if "XTERM_VERSION" in variables or ("STY" in variables and "TMUX" not in variables):
        return False
    return variables.get("TERM", "") != "linux"
