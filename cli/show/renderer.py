"""An answer on a terminal: Markdown that is drawn once, and a few live lines below it.

Finished blocks go to the surface for good. The open block, the reasoning while it comes and the bar
of a long prompt are live; when they end, nothing of them is left but what is worth keeping.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.safe import drawable, harmless
from cli.show.markdown.blocks import Block
from cli.show.markdown.draw import MarkdownDrawing
from cli.show.markdown.stream import MarkdownStream
from cli.show.screen.live import THINKING_CHARACTERS, OpenBlock, Reading, ThinkingLines
from cli.show.surface import Count, Surface
from cli.show.theme import Theme
from cli.show.wording import budget_note, ending, loop_note, thought_for, tool_call_lines
from dsv4_mlx.chat.events import (
    BudgetReached,
    Done,
    Event,
    LoopNoticed,
    Progress,
    ReasoningDelta,
    TextDelta,
)
from dsv4_mlx.chat.messages import ToolCall

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

# A prompt that is read faster than a blink needs no bar.
_SHORT_PROMPT = 512


class MarkdownView:
    """Draws events on a surface; see `View` in cli/show/surface.py."""

    def __init__(
        self,
        surface: Surface,
        theme: Theme,
        *,
        reasoning: str = "fold",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reasoning = reasoning
        self._surface = surface
        self._theme = theme
        self._clock = clock
        self._last_reasoning = ""
        self.begin()

    def begin(self, count: Count | None = None) -> None:
        """An answer is about to come; `count` is for the line that folded reasoning becomes."""
        self._count = count
        self._began = self._clock()
        self._thinking: _Reasoning | None = None
        self._has_shown = False
        self._start_text()

    def feed(self, event: Event) -> None:
        """One event; Done is the last."""
        match event:
            case TextDelta(text):
                self._end_reasoning()
                self._answer(text)
            case ReasoningDelta(text):
                self._end_text()
                self._reason(text)
            case Progress():
                self._progress(event)
            case ToolCall():
                self._end_reasoning()
                self._end_text()
                self._tool_call(event)
            case BudgetReached():
                self._budget_reached(event)
            case LoopNoticed():
                self.note(loop_note(event))
            case Done():
                self._end_reasoning(event.usage.reasoning_tokens)
                self._end_text()
                if sentence := ending(event):
                    self.note(sentence)

    def end(self) -> None:
        """No event follows: what is open is finished, nothing is live."""
        self._end_reasoning()
        self._end_text()
        self._count = None  # it would hold the model
        if self._has_shown:
            self._say("", "answer")
        self._has_shown = False
        self._surface.live(None)

    def note(self, sentence: str) -> None:
        """One calm line of ours."""
        self._say(sentence, "note")

    def error(self, sentence: str) -> None:
        """One line that says what failed."""
        self._say(f"dsv4-chat: {sentence}", "error")

    def unfold_last(self) -> None:
        """Print the last reasoning in full."""
        thinking = self._thinking
        text = thinking.text() if thinking else self._last_reasoning
        if text.strip():
            self._say(text.strip("\n") + "\n", "reasoning")
        else:
            self.note("[no reasoning to show]")

    # The answer

    def _start_text(self) -> None:
        self._stream = MarkdownStream()
        self._drawing = MarkdownDrawing(self._theme, is_spaced=True)

    def _answer(self, text: str) -> None:
        self._show(self._stream.feed(harmless(text)))
        # After `show`: a surface waits for this before it draws the finished blocks.
        self._surface.live(OpenBlock(self._stream.preview(), self._drawing.copy()))

    def _end_text(self) -> None:
        blocks = self._stream.finish()
        if blocks:
            self._show(blocks)
            self._surface.live(None)
        self._start_text()

    def _show(self, blocks: list[Block]) -> None:
        for block in blocks:
            drawn = self._drawing.draw(block)
            if block.kind != "blank":
                self._print(drawn)

    # The reasoning

    def _reason(self, text: str) -> None:
        if self._thinking is None:
            self._thinking = _Reasoning(self._clock())
        thinking = self._thinking
        complete = thinking.add(harmless(text))
        if self.reasoning == "show" and complete:
            self._say(complete, "reasoning")
        tail = thinking.open_line if self.reasoning == "show" else thinking.tail
        self._surface.live(ThinkingLines(tail, self._clock() - thinking.since, self._theme))

    def _budget_reached(self, event: BudgetReached) -> None:
        """Said when the reasoning is over: its last words are still to come."""
        if self._thinking is None:
            self.note(budget_note(event))
        else:
            self._thinking.budget = event

    def _end_reasoning(self, tokens: int | None = None) -> None:
        thinking, self._thinking = self._thinking, None
        if thinking is None:
            return
        self._last_reasoning = text = thinking.text()
        if self.reasoning == "show" and thinking.open_line.strip():
            self._say(thinking.open_line, "reasoning")
        if thinking.budget:
            tokens = thinking.budget.tokens
        if self.reasoning != "hide":
            tokens = tokens or (self._count(text) if self._count else None)
            self.note(thought_for(self._clock() - thinking.since, tokens))
        if thinking.budget:
            self.note(budget_note(thinking.budget))
        self._surface.live(None)

    # The rest

    def _progress(self, at: Progress) -> None:
        if at.layers is not None or at.total >= _SHORT_PROMPT:
            seconds = self._clock() - self._began
            self._surface.live(Reading(at.done, at.total, seconds, self._theme, at.layers))

    def _tool_call(self, call: ToolCall) -> None:
        name, *arguments = tool_call_lines(call)
        if self._has_shown:
            self._say("", "answer")
        self._say(name, "tool")
        for line in arguments:
            self._say(line, "note")

    def _say(self, sentence: str, role: str) -> None:
        self._print(self._text(sentence, role))

    def _print(self, renderable: "RenderableType") -> None:
        self._has_shown = True
        self._surface.show(renderable)

    def _text(self, sentence: str, role: str) -> "Text":
        from rich.text import Text

        return Text(drawable(sentence), self._theme.style(role), tab_size=4)


class _Reasoning:
    """Reasoning while it comes."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.tail = ""
        self.open_line = ""
        self.budget: BudgetReached | None = None
        self._parts: list[str] = []

    def add(self, text: str) -> str:
        """Take more; the lines that it completes."""
        self._parts.append(text)
        self.tail = (self.tail + text)[-THINKING_CHARACTERS:]
        complete, newline, rest = text.rpartition("\n")
        if not newline:
            self.open_line += rest
            return ""
        complete, self.open_line = self.open_line + complete, rest
        return complete

    def text(self) -> str:
        return "".join(self._parts)
