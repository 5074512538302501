"""Blocks of Markdown drawn for a terminal: what `MarkdownStream` gives, as rich's renderables.

Nothing is padded to the edge, so text that is copied from the screen is the text. Code stands at
the margin between two rules for the same reason.
"""

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING, Protocol

from cli.safe import drawable
from cli.show.markdown.blocks import Block
from cli.show.markdown.highlight import Highlighter
from cli.show.markdown.inline import inline_text
from cli.show.markdown.lines import Container
from cli.show.markdown.table import Table
from cli.show.theme import Theme

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_BULLET, _BAR = "•", "▎"
_RULE_WIDTH = 60


class MarkdownDrawing:
    """Draws the blocks of one text in their order."""

    def __init__(self, theme: Theme, *, is_spaced: bool = False) -> None:
        """`is_spaced` puts an empty line before the first block."""
        self._theme = theme
        self._highlighter = Highlighter("", None)
        self._last_kind = ""
        self._is_spaced = is_spaced

    def copy(self) -> "MarkdownDrawing":
        """Another that goes on from here, for blocks that are not final."""
        twin = copy(self)
        twin._highlighter = self._highlighter.copy()
        return twin

    def draw(self, block: Block) -> "DrawnBlock":
        """The next block."""
        body = self._body(block)
        gap = block.gap
        if gap is None and self._needs_gap(block):
            gap = 0
        self._last_kind = block.kind
        return DrawnBlock(block, body, gap, self._theme)

    def _needs_gap(self, block: Block) -> bool:
        if not self._last_kind:
            return self._is_spaced
        return block.kind == "heading" and self._last_kind != "heading"

    def _body(self, block: Block) -> "BlockBody":
        theme = self._theme
        match block.kind:
            case "code":
                return self._code(block)
            case "table":
                return Table(block.head, block.lines, first=block.first, theme=theme)
            case "heading":
                return _Prose(self._heading(block))
            case "paragraph":
                return _Prose(inline_text("\n".join(block.lines), theme))
            case "rule":
                return _Rule("", theme)
            case "math":
                return _Verbatim([_plain(line, theme, "math") for line in block.lines])
            case _:
                return _Verbatim([_plain(f"    {line}", theme, "") for line in block.lines])

    def _code(self, block: Block) -> "BlockBody":
        if block.first:
            self._highlighter = Highlighter(block.info, self._theme.code)
        lines = self._highlighter.lines(block.lines)
        opening = _Rule(block.info, self._theme) if block.first else None
        return _Code(lines, opening, _Rule("", self._theme) if block.last else None)

    def _heading(self, block: Block) -> "Text":
        source = "\n".join(block.lines)
        if self._theme.marks:
            source = f"{'#' * int(block.info)} {source}"
        return inline_text(source, self._theme, "title" if block.info == "1" else "heading")


class DrawnBlock:
    """One block with the marks of its containers, for any width."""

    def __init__(self, block: Block, body: "BlockBody", gap: int | None, theme: Theme) -> None:
        self._block = block
        self._body = body
        self._gap = gap
        self._theme = theme

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        if self._block.kind == "blank":
            return
        containers = self._block.containers
        dropped = _dropped(containers, options.max_width)
        fresh = len(containers) - self._block.fresh
        first = self._margin(containers[dropped:], max(0, fresh - dropped))
        margin = self._margin(containers[dropped:], len(containers))
        if self._gap is not None:
            gap = self._margin(containers[dropped : self._gap], len(containers))
            gap.rstrip()
            yield from gap.render(console, end="\n")
        width = max(1, options.max_width - margin.cell_len)
        for line in self._body.lines(console, width):
            whole = first + line
            whole.rstrip()
            yield from whole.render(console, end="\n")
            first = margin

    def _margin(self, containers: tuple[Container, ...], beginning: int) -> "Text":
        """What stands before a line; items from number `beginning` on show their marker."""
        from rich.text import Text

        margin = Text()
        for number, container in enumerate(containers):
            if container.is_quote:
                margin.append(f"{_BAR} ", self._theme.style("quote"))
                continue
            marker = container.marker if len(container.marker) > 1 else _BULLET
            shown = marker if number >= beginning else " " * len(marker)
            margin.append(f"{shown} ", self._theme.style("mark"))
        return margin


def _dropped(containers: tuple[Container, ...], width: int) -> int:
    """How many of the outer containers are not shown, since they would leave no room for words."""
    room, dropped = width // 2, len(containers)
    for container in reversed(containers):
        room -= len(container.marker) + 1
        if room < 0:
            break
        dropped -= 1
    return dropped


class BlockBody(Protocol):
    """What a block draws beside its containers' marks."""

    def lines(self, console: "Console", width: int) -> "Iterator[Text]":
        """Lines of at most `width` columns."""
        ...


class _Prose:
    def __init__(self, text: "Text") -> None:
        self._text = text

    def lines(self, console: "Console", width: int) -> "Iterator[Text]":
        yield from self._text.wrap(console, width)


class _Verbatim:
    """Lines that are broken where the screen ends, and nowhere else."""

    def __init__(self, lines: "list[Text]") -> None:
        self._lines = lines

    def lines(self, console: "Console", width: int) -> "Iterator[Text]":
        for line in self._lines:
            yield from folded(line, width)


class _Rule:
    """A line across, with a word in it."""

    def __init__(self, name: str, theme: Theme) -> None:
        self._name = drawable(name)
        self._theme = theme

    def lines(self, console: "Console", width: int) -> "Iterator[Text]":
        from rich.cells import set_cell_size
        from rich.text import Text

        name = f"── {self._name} " if self._name else ""
        length = min(width, _RULE_WIDTH)
        line = name + "─" * max(0, length - len(name))
        yield Text(set_cell_size(line, length), self._theme.style("rule"))


class _Code:
    def __init__(self, lines: "list[Text]", opening: _Rule | None, closing: _Rule | None) -> None:
        self._parts = [part for part in (opening, _Verbatim(lines), closing) if part]

    def lines(self, console: "Console", width: int) -> "Iterator[Text]":
        for part in self._parts:
            yield from part.lines(console, width)


def _plain(line: str, theme: Theme, role: str) -> "Text":
    from rich.text import Text

    return Text(drawable(line).expandtabs(4), theme.style(role))


def folded(line: "Text", width: int) -> "list[Text]":
    """`line` broken into lines of at most `width` columns, with nothing left out."""
    from rich.cells import cell_len, chop_cells

    if cell_len(line.plain) <= width:
        return [line]
    ends, place = [], 0
    for piece in chop_cells(line.plain, width):
        place += len(piece)
        ends.append(place)
    return list(line.divide(ends[:-1]))
