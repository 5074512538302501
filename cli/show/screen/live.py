"""What is drawn while it changes: reading a prompt, thinking, the open block of an answer.

These are small values. Nothing is laid out until a surface draws them, so what comes faster than
the screen is drawn costs nothing.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cli.safe import drawable
from cli.show.markdown.draw import MarkdownDrawing
from cli.show.markdown.inline import mended
from cli.show.markdown.stream import MarkdownStream
from cli.show.theme import Theme
from cli.show.wording import about

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

_BAR_WIDTH, _NARROWEST_BAR = 24, 6
_THINKING_LINES = 4
THINKING_CHARACTERS = 1_000
"""How much of the end of a reasoning can be on the screen while it comes."""


@dataclass(frozen=True)
class OpenBlock:
    """The block that is being written, as it would end now."""

    stream: MarkdownStream
    drawing: MarkdownDrawing

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        drawing = self.drawing.copy()
        for block in self.stream.preview().finish():
            if block.kind in ("paragraph", "heading"):
                block = replace(block, lines=(mended("\n".join(block.lines)),))
            yield drawing.draw(block)


@dataclass(frozen=True)
class ThinkingLines:
    """The last lines of a reasoning, dim, below how long it has taken."""

    tail: str
    seconds: float
    theme: Theme

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        style, width = self.theme.style("reasoning"), options.max_width
        lines = Text(drawable(self.tail), style, tab_size=4).wrap(console, max(1, width - 2))
        shown = [line for line in lines if line.plain.strip()][-_THINKING_LINES:]
        for line in shown:
            line.pad_left(2)
        for line in [Text(f"thinking · {self.seconds:.0f} s", style), *shown]:
            yield from _cut(line, width).render(console, end="\n")


@dataclass(frozen=True)
class Reading:
    """How far a prompt is read: tokens, a bar, the rate and what is left; where tokens pass the
    layers together, the layer."""

    done: int
    total: int
    seconds: float
    theme: Theme
    layers: tuple[int, int] | None = None

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        note, width = self.theme.style("note"), options.max_width
        count, pace = f"reading {self.done:,} of {self.total:,} tokens", self._pace()
        done, total = self.done, self.total
        if self.layers is not None:
            done, total = self.layers
            count += f" · layer {min(done + 1, total)} of {total}"
        room = min(_BAR_WIDTH, width - len(count) - len(pace) - 4)
        text = Text(count, note)
        if room >= _NARROWEST_BAR:
            full = room * done // max(1, total)
            text.append(f"  {'━' * full}", self.theme.style("meter"))
            text.append("╌" * (room - full))
        text.append(f"  {pace}" if pace else "")
        yield from _cut(text, width).render(console, end="\n")

    def _pace(self) -> str:
        if self.seconds <= 0 or self.done <= 0:
            return ""
        if self.layers is not None:
            return ""  # what the first tokens took says little of those that pass now
        rate = self.done / self.seconds
        left = about((self.total - self.done) / rate)
        return f"{rate:,.0f} tokens/s · {left} left"


def _cut(text: "Text", width: int) -> "Text":
    text.truncate(width, overflow="ellipsis")
    return text
