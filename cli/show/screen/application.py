"""prompt-toolkit's application for the prompt: it draws below the finished text.

Some of what is needed here prompt-toolkit does in methods that begin with an underscore; each is
named where it is overridden, with the reason.
"""

from collections.abc import Callable

from prompt_toolkit.application import Application
from prompt_toolkit.data_structures import Point, Size
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import Layout
from prompt_toolkit.layout.screen import Screen as Drawn
from prompt_toolkit.styles import Style

from cli.show.screen.terminal_output import TerminalOutput

_TRIES = 4
"""How often a frame is drawn whose terminal gets another size meanwhile."""


class ScreenApplication(Application[None]):
    """Finished text goes above, in one write with what is drawn again below it."""

    def __init__(
        self,
        layout: Layout,
        keys: KeyBindings,
        style: Style,
        *,
        input: Input,
        output: TerminalOutput,
        pending: Callable[[], str],
        reflows: bool,
    ) -> None:
        """`pending` hands over the finished text that is not printed yet, once."""
        self._terminal = output
        self._pending = pending
        self._reflows = reflows
        """The terminal wraps long lines again when it becomes narrower."""
        super().__init__(
            layout,
            style=style,
            include_default_pygments_style=False,
            key_bindings=keys,
            full_screen=False,
            erase_when_done=True,
            mouse_support=False,
            enable_page_navigation_bindings=False,
            terminal_size_polling_interval=None,
            input=input,
            output=output,
        )
        # A lone Escape is told from the beginning of a sequence by the time after it.
        self.ttimeoutlen = 0.1

    def draw(self) -> None:
        """Draw now; on the thread of the event loop."""
        self._redraw()

    def _redraw(self, render_as_done: bool = False) -> None:
        """Print what is finished above what is drawn.

        prompt-toolkit keeps the height it once had; here the prompt moves up to the text.
        """
        with self._terminal.one_write():
            is_ours = self._is_running and not self._running_in_terminal
            text = self._pending() if is_ours else ""
            for left in reversed(range(_TRIES)):
                written, renderer = self._terminal.written(), dict(vars(self.renderer))
                if is_ours:
                    self._print(text)
                super()._redraw(render_as_done)
                if not left or self._terminal.has_its_size():
                    break
                # Rows of one width on a terminal of another could not be erased any more.
                self._terminal.take_back(written)
                vars(self.renderer).update(renderer)

    def _print(self, text: str) -> None:
        """Erase what is drawn and print `text` in its place, where one has to be for the other."""
        # The signal may come later than the change, and what is drawn for another width
        # could not be erased any more.
        self._take_size()
        if text or self._shrinks():
            self.renderer.erase(leave_alternate_screen=False)
            self._terminal.write_raw(text)

    def _shrinks(self) -> bool:
        drawn = self.renderer.last_rendered_screen
        size = self._terminal.size
        preferred = self.layout.container.preferred_height(size.columns, size.rows).preferred
        return drawn is not None and preferred < drawn.height

    def _on_resize(self) -> None:
        self._redraw()

    def _take_size(self) -> None:
        """Erase what is drawn if the terminal has another size than it was drawn for.

        prompt-toolkit erases as many rows as it drew; a terminal that became narrower may have
        wrapped them into more.
        """
        before = self._terminal.size
        size = self._terminal.measure()
        if size == before:
            return
        drawn = self.renderer.last_rendered_screen
        if drawn is not None and self._reflows and size.columns < before.columns:
            self.renderer._cursor_pos = _wrapped(drawn, self.renderer._cursor_pos, size)
        self.renderer.erase(leave_alternate_screen=False)


def _wrapped(drawn: Drawn, cursor: Point, size: Size) -> Point:
    """Where the cursor is once every row is wrapped to the new width."""
    rows = sum(_rows(drawn, y, size.columns) for y in range(cursor.y))
    below, x = divmod(cursor.x, size.columns)
    return Point(x=x, y=min(rows + below, size.rows - 1))


def _rows(drawn: Drawn, y: int, columns: int) -> int:
    """How many rows one row becomes."""
    used = [x for x, cell in drawn.data_buffer[y].items() if cell.char != " "]
    return max(1, -(-(max(used, default=0) + 1) // columns))
