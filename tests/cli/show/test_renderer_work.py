"""The renderer's work is linear in the text, counted in characters read and in calls."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from cli.show.markdown import draw as markdown_draw
from cli.show.markdown import table as markdown_table
from cli.show.markdown.highlight import Highlighter
from cli.show.markdown.stream import MarkdownStream
from cli.show.renderer import MarkdownView
from cli.show.theme import DARK
from dsv4_mlx.chat.events import TextDelta
from tests.cli.screen import Screen
from tests.cli.work import counted

SHAPES: dict[str, Callable[[int], str]] = {
    "code": lambda lines: "```python\n" + "    value = call(1, 'x')\n" * lines + "```\n",
    "comment": lambda lines: "```c\n/*\n" + " * a long comment\n" * lines + "*/\n```\n",
    "list": lambda lines: "- an *item* of some words\n" * lines,
    "nested list": lambda lines: "- a\n" + "  - an *item* of words\n" * lines,
    "table": lambda lines: "| a | b |\n|---|---|\n" + "| one | *two* three |\n" * lines,
    "paragraph": lambda lines: "a line of *some* words\n" * lines,
    "one line": lambda lines: "some words of *one* line " * lines,
    "one word": lambda lines: "unbroken-and-very-long!!" * lines,
    "quote": lambda lines: "> a line of *some* words\n" * lines,
    "mathematics": lambda lines: "$$\n" + "x_1 + y_1 = z_1 \\\\\n" * lines + "$$\n",
    "paragraphs": lambda lines: "some words of *one* line\n\n" * lines,
    "empty lines": lambda lines: "\n" * lines,
}
DELTA = 5  # characters of a token, about
FRAME = 40  # deltas from one drawing to the next


@dataclass
class Read:
    """Characters that were looked at."""

    finished: int = 0
    live: int = 0
    largest_frame: int = 0


class CountingScreen(Screen):
    """Draws live lines now and then, as a terminal does."""

    def draw(self, read: Read) -> None:
        before = read.finished
        _ = self.live_text
        frame, read.finished = read.finished - before, before
        read.live += frame
        read.largest_frame = max(read.largest_frame, frame)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[Read]:
    """Counts what is parsed, highlighted and taken line by line."""
    counter = Read()

    def counting(function: Callable[..., object], argument: int) -> Callable[..., object]:
        def count(*arguments: object) -> object:
            counter.finished += len(arguments[argument])  # type: ignore[arg-type]
            return function(*arguments)

        return count

    for owner in (markdown_draw, markdown_table):
        monkeypatch.setattr(owner, "inline_text", counting(owner.inline_text, 0))
    monkeypatch.setattr(Highlighter, "_tokens", counting(Highlighter._tokens, 1))
    monkeypatch.setattr(MarkdownStream, "_line", counting(MarkdownStream._line, 1))
    yield counter


def render(text: str, read: Read) -> None:
    screen = CountingScreen()
    view = MarkdownView(screen, DARK)
    for number, start in enumerate(range(0, len(text), DELTA)):
        view.feed(TextDelta(text[start : start + DELTA]))
        if number % FRAME == 0:
            screen.draw(read)
    view.end()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("lines", [300, pytest.param(3_000, marks=pytest.mark.slow)])
def test_every_character_is_read_a_few_times(shape: str, lines: int, read: Read) -> None:
    text = SHAPES[shape](lines)
    render(text, read)
    assert read.finished <= 4 * len(text)
    assert read.largest_frame <= 12_000


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_times_the_text_is_ten_times_the_work(shape: str) -> None:
    def work(lines: int) -> int:
        return counted(lambda: render(SHAPES[shape](lines), Read()))

    work(10)  # what is imported and cached once
    unit = 50 if shape in ("paragraph", "one line", "one word") else 20  # one block has more frames
    few = work(unit)
    assert work(10 * unit) - few <= 10 * (work(2 * unit) - few)
