"""An answer as plain lines that nothing redraws, for screen readers, pipes and dumb terminals.

The answer goes to stdout, everything else to stderr.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.show.output import PlainOutput
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
    from cli.show.surface import Count


class PlainView:
    """Writes events as they come; see `View` in cli/show/surface.py.

    Reasoning that is folded or hidden is not written while it comes; `fold` tells in one line how
    long it was, and `unfold_last` writes it.
    """

    def __init__(
        self,
        output: PlainOutput,
        *,
        reasoning: str = "show",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reasoning = reasoning
        self._output = output
        self._count: Count | None = None
        self._clock = clock
        self._thoughts: list[str] = []
        self._since: float | None = None

    def begin(self, count: "Count | None" = None) -> None:
        """An answer is about to come."""
        self._count = count
        self._thoughts, self._since = [], None

    def feed(self, event: Event) -> None:
        """One event; Done is the last."""
        match event:
            case ReasoningDelta(text):
                self._reason(text)
            case TextDelta(text):
                self._end_reasoning()
                self._output.answer(text)
            case Progress(done, total, layers):
                layer = f", layer {min(layers[0] + 1, layers[1])} of {layers[1]}" if layers else ""
                self._output.progress(f"reading {done:,} of {total:,} tokens{layer}")
            case ToolCall():
                self._end_reasoning()
                for line in tool_call_lines(event):
                    self._output.note(line)
            case BudgetReached():
                self._output.note(budget_note(event))
            case LoopNoticed():
                self._output.aside(loop_note(event))
            case Done():
                self._end_reasoning(event.usage.reasoning_tokens)
                self.end()
                if sentence := ending(event):
                    self._output.note(sentence)

    def end(self) -> None:
        """No event follows: whatever line is open is ended."""
        self._end_reasoning()
        self._count = None  # it would hold the model
        self._output.close_lines()

    def note(self, sentence: str) -> None:
        """One calm line of ours."""
        self._output.note(sentence)

    def error(self, sentence: str) -> None:
        """One line that says what failed."""
        self._output.error(sentence)

    def unfold_last(self) -> None:
        """Write the last reasoning in full."""
        if not self._thoughts:
            self._output.note("[no reasoning to show]")
            return
        self._output.reasoning("".join(self._thoughts))
        self._output.close_lines()

    def _reason(self, text: str) -> None:
        if self._since is None:
            self._since = self._clock()
        self._thoughts.append(text)
        if self.reasoning == "show":
            self._output.reasoning(text)

    def _end_reasoning(self, tokens: int | None = None) -> None:
        if self._since is not None and self.reasoning == "fold":
            tokens = tokens or (self._count("".join(self._thoughts)) if self._count else None)
            self._output.note(f"[{thought_for(self._clock() - self._since, tokens)}]")
        self._since = None
