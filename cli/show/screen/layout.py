"""What stands below the finished text: the answer that is coming, what waits, status, input, menu.

Everything is a function of a `Shown`, asked at each redraw; nothing here keeps state. The parts
give way to one another so that the whole is never higher than the screen: the input keeps a line,
then come the status and the menu, and the live text gets what is left. Where the terminal wraps
rows anew when it becomes narrower, that is as much as still fits a screen of a quarter of the
width: rows that scroll off can never be erased.
"""

from collections.abc import Callable
from typing import Protocol

from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Point, Size
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import split_lines
from prompt_toolkit.layout import (
    ConditionalContainer,
    Container,
    FormattedTextControl,
    HSplit,
    Layout,
    VerticalAlign,
    Window,
)
from prompt_toolkit.layout.controls import BufferControl
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.processors import AfterInput, TabsProcessor
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar

from cli.safe import harmless
from cli.show.screen.chips import Chips
from cli.show.screen.drawing import Fragments

PROMPT, CONTINUED = "> ", "  "
_QUEUED_LINES = 3
_MENU_LINES = 6
_SMALL = 6
"""Rows; a screen that low shows no status line."""
_NARROWEST = 20
"""Columns; nobody makes a terminal narrower in one step."""


class Shown(Protocol):
    """What the layout draws, asked at each redraw."""

    @property
    def size(self) -> Size:
        """Of the terminal."""
        ...

    def live_lines(self) -> list[Fragments]:
        """The answer that is coming, as many lines as a screen holds."""
        ...

    def queued(self) -> list[str]:
        """What was sent ahead and waits."""
        ...

    def question(self) -> StyleAndTextTuples:
        """What has to be decided; empty while nothing does."""
        ...

    def status_fragments(self, width: int) -> StyleAndTextTuples:
        """One line."""
        ...


class ScreenLayout:
    """The containers, and the heights they may take."""

    def __init__(
        self,
        shown: Shown,
        buffer: Buffer,
        chip_label: Callable[[str], str | None],
        placeholder: Callable[[], str] = lambda: "",
        *,
        reflows: bool = True,
    ) -> None:
        """`reflows`: the terminal wraps rows anew when it becomes narrower."""
        self._shown = shown
        self._reflows = reflows
        self._measured: list[Fragments] = []
        self._widths: list[int] = []
        self._buffer = buffer
        search = SearchToolbar(ignore_case=True)
        self.search_buffer = search.search_buffer
        control = BufferControl(
            buffer,
            input_processors=[
                Chips(chip_label),
                TabsProcessor(char1=" ", char2=" "),
                AfterInput(
                    lambda: cut(placeholder(), shown.size.columns - len(PROMPT) - 1),
                    style="class:note",
                ),
            ],
            search_buffer_control=search.control,
            preview_search=True,
        )
        self._input = Window(
            control,
            height=self._input_height,
            wrap_lines=True,
            dont_extend_height=True,
            get_line_prefix=_line_prefix,
        )
        self._question = Window(
            FormattedTextControl(shown.question, focusable=True, get_cursor_position=self._end),
            wrap_lines=True,
            dont_extend_height=True,
            height=lambda: Dimension(min=1, max=self._room),
        )
        asking = Condition(lambda: bool(shown.question()))
        self.layout = Layout(
            HSplit(
                [
                    self._part(self._live, self._live_height),
                    self._part(self._queued_text, self._queued_height),
                    self._part(self._status_text, self._status_height),
                    ConditionalContainer(self._input, ~asking),
                    ConditionalContainer(self._question, asking),
                    search,
                    self._part(self._menu, self._menu_height),
                ],
                align=VerticalAlign.TOP,
            ),
            focused_element=self._input,
        )

    def focus(self, asking: bool) -> None:
        """Keys answer the question, or go to the input again."""
        self.layout.search_links.clear()
        self.layout.focus(self._question if asking else self._input)

    def _part(self, text: Callable[[], StyleAndTextTuples], height: Callable[[], int]) -> Container:
        window = Window(
            FormattedTextControl(text, show_cursor=False),
            height=lambda: Dimension.exact(height()),
            wrap_lines=False,
            always_hide_cursor=True,
        )
        return ConditionalContainer(window, Condition(lambda: height() > 0))

    # Heights

    @property
    def _room(self) -> int:
        """Rows below the finished text; one of that stays visible where there are a few."""
        rows = self._shown.size.rows
        return rows - 1 if rows > 3 else rows

    def _input_height(self) -> Dimension:
        return Dimension(min=1, max=max(1, self._room // 2))

    def _status_height(self) -> int:
        return int(self._shown.size.rows > _SMALL)

    def _queued_height(self) -> int:
        return min(len(self._shown.queued()), _QUEUED_LINES, max(0, self._room - 3))

    def _menu_height(self) -> int:
        state = self._buffer.complete_state
        most = min(_MENU_LINES, max(1, self._room // 3))
        return min(len(state.completions), most) if state and not self._shown.question() else 0

    def _live_height(self) -> int:
        lines = self._shown.live_lines()
        if not lines:
            return 0
        asked = self._question if self._shown.question() else self._input
        own = asked.preferred_height(self._shown.size.columns, self._room).preferred
        others = own + self._status_height() + self._queued_height() + self._menu_height()
        left = self._room - others - int(self.layout.is_searching)
        most = max(0, min(len(lines), left))
        return self._fitting_once_narrower(lines, most, own) if self._reflows else most

    def _fitting_once_narrower(self, lines: list[Fragments], most: int, own: int) -> int:
        """How many of the last lines, up to `most` and one at least, fit above the rest once every
        row is wrapped; `own` rows belong to the input."""
        columns = self._shown.size.columns
        narrow = max(_NARROWEST, -(-columns // 4))
        if lines is not self._measured:
            self._measured = lines
            self._widths = [sum(get_cwidth(text) for _, text in line) for line in lines]
        if all(width <= narrow for width in self._widths[len(lines) - most :]):
            return most
        typed = columns if own > 1 else get_cwidth(self._buffer.text) + len(PROMPT)
        rest = [typed] * own + [columns] * self._queued_height()
        if self._status_height():
            rest.append(sum(get_cwidth(part[1]) for part in self._status_text()))
        left = self._room - self._menu_height() - sum(_wrapped(width, narrow) for width in rest)
        count = 0
        for width in reversed(self._widths):
            left -= _wrapped(width, narrow)
            if left < 0:
                break
            count += 1
        return min(most, max(1, count))

    # Texts

    def _live(self) -> StyleAndTextTuples:
        lines = self._shown.live_lines()
        return _joined(lines[len(lines) - self._live_height() :])

    def _queued_text(self) -> StyleAndTextTuples:
        queued = self._shown.queued()
        height = self._queued_height()
        hidden = len(queued) - height
        lines: list[Fragments] = []
        for number, text in enumerate(queued[:height], 1):
            more = f" (+{hidden} more)" if hidden and number == height else ""
            line = harmless(text).replace("\n", " ⏎ ").replace("\t", " ")
            width = self._shown.size.columns - get_cwidth(f"{CONTINUED}queued: {more}")
            lines.append([("class:note", f"{CONTINUED}queued: {cut(line, width)}{more}")])
        return _joined(lines)

    def _status_text(self) -> StyleAndTextTuples:
        return self._shown.status_fragments(self._shown.size.columns)

    def _menu(self) -> StyleAndTextTuples:
        state = self._buffer.complete_state
        if state is None:
            return []
        height = self._menu_height()
        chosen = state.complete_index
        first = max(0, min((chosen or 0) - height // 2, len(state.completions) - height))
        shown = state.completions[first : first + height]
        wide = max(get_cwidth(one.display_text) for one in shown)
        lines: list[Fragments] = []
        for index, one in enumerate(shown, first):
            current = ".current" if index == chosen else ""
            mark = "▸ " if current else CONTINUED
            name = one.display_text + " " * (wide - get_cwidth(one.display_text))
            help_line = f"  {one.display_meta_text}" if one.display_meta_text else ""
            columns = self._shown.size.columns
            name = cut(mark + name, columns)
            help_line = cut(help_line, columns - get_cwidth(name))
            lines.append(
                [
                    (f"class:completion-menu.completion{current}", name),
                    (f"class:completion-menu.meta.completion{current}", help_line),
                ]
            )
        return _joined(lines)

    def _end(self) -> Point:
        """The cursor waits behind the question, on the space that ends it."""
        lines = list(split_lines(self._shown.question()))
        length = sum(len(text) for _, text, *_ in lines[-1]) if lines else 0
        return Point(x=max(0, length - 1), y=max(0, len(lines) - 1))


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, with an ellipsis where something is missing."""
    if get_cwidth(text) <= width:
        return text
    while text and get_cwidth(text) > width - 1:
        text = text[:-1]
    return text + "…" if width > 0 else ""


def _wrapped(width: int, columns: int) -> int:
    """Rows that so many cells take."""
    return max(1, -(-width // columns))


def _line_prefix(line: int, wrapped: int) -> StyleAndTextTuples:
    return [("class:prompt", CONTINUED if line or wrapped else PROMPT)]


def _joined(lines: list[Fragments]) -> StyleAndTextTuples:
    text: StyleAndTextTuples = []
    for line in lines:
        if text:
            text.append(("", "\n"))
        text += line
    return text
