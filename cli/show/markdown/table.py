"""Tables of Markdown as columns that fit the screen, or as records where none would.

The columns are fixed by the first rows, so a long table can be drawn piece by piece.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.show.markdown.inline import inline_text
from cli.show.markdown.lines import cells
from cli.show.theme import Theme

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NARROWEST = 6  # columns that still hold a word
_BETWEEN = " │ "
_CROSSING = "─┼─"


class Table:
    """One piece of a table; `head` holds the header, the dashes and the first rows."""

    def __init__(
        self, head: tuple[str, ...], rows: tuple[str, ...], *, first: bool, theme: Theme
    ) -> None:
        self._theme = theme
        self._first = first
        self._header = [inline_text(cell, theme, "strong") for cell in cells(head[0])]
        self._sides = [_side(dashes) for dashes in cells(head[1])]
        sample = [self._row(row) for row in head[2:]]
        self._rows = sample if first else [self._row(row) for row in rows]
        self._natural = [
            max(1, *(_width(row[column]) for row in [self._header, *sample]))
            for column in range(len(self._header))
        ]

    def _row(self, row: str) -> "list[Text]":
        """As many cells as there are columns; what is too much joins the last."""
        found, columns = cells(row), len(self._header)
        if len(found) > columns:
            found[columns - 1 :] = [" | ".join(found[columns - 1 :])]
        return [inline_text(cell, self._theme) for cell in found + [""] * (columns - len(found))]

    def lines(self, console: "Console", width: int) -> "Iterator[Text]":
        """The lines of this piece."""
        widths = fitted(self._natural, width - len(_BETWEEN) * (len(self._natural) - 1))
        if widths is None:
            yield from self._records(console, width)
            return
        if self._first:
            yield from self._aligned(console, self._header, widths)
            yield self._mark(_CROSSING.join("─" * each for each in widths))
        for row in self._rows:
            yield from self._aligned(console, row, widths)

    def _aligned(
        self, console: "Console", row: "list[Text]", widths: list[int]
    ) -> "Iterator[Text]":
        from rich.text import Text

        border = self._mark(_BETWEEN)
        columns = [
            _padded(console, cell, width, side)
            for cell, width, side in zip(row, widths, self._sides, strict=True)
        ]
        for number in range(max(map(len, columns))):
            pieces = [
                column[number] if number < len(column) else self._mark(" " * width)
                for column, width in zip(columns, widths, strict=True)
            ]
            # The border's style must not become the line's, as `border.join` would have it.
            line = Text.assemble(pieces[0], *(p for piece in pieces[1:] for p in (border, piece)))
            line.rstrip()
            yield line

    def _records(self, console: "Console", width: int) -> "Iterator[Text]":
        """Each cell below the last, named by its header: a table of many columns on few."""
        for row in self._rows:
            for name, cell in zip(self._header, row, strict=True):
                yield from name.__class__.assemble(name, ": ", cell).wrap(console, width)
            yield self._mark("─" * min(width, _NARROWEST))

    def _mark(self, text: str) -> "Text":
        from rich.text import Text

        return Text(text, self._theme.style("mark"))


def fitted(natural: list[int], room: int) -> list[int] | None:
    """Widths of columns that fit into `room`: wide ones give way first. None if none do."""
    if sum(natural) <= room:
        return natural
    if room < len(natural) * _NARROWEST:
        return None
    left, widths = room, list(natural)
    by_width = sorted(range(len(natural)), key=natural.__getitem__)
    for place, column in enumerate(by_width):
        widths[column] = min(natural[column], left // (len(by_width) - place))
        left -= widths[column]
    return widths


def _side(dashes: str) -> str:
    if dashes.endswith(":"):
        return "center" if dashes.startswith(":") else "right"
    return "left"


def _width(text: "Text") -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.plain.split("\n")))


def _padded(console: "Console", cell: "Text", width: int, side: str) -> "list[Text]":
    lines = list(cell.wrap(console, width))
    for line in lines:
        line.rstrip()
        left = max(0, width - line.cell_len)
        before = left if side == "right" else left // 2 if side == "center" else 0
        line.pad_left(before)
        line.pad_right(left - before)
    return lines
