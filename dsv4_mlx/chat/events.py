"""What happens while a conversation answers, as values.

One answer is Progress while the prompt is read, deltas and tool calls as they are generated, and
Done at the end. A terminal, a JSON writer and a test read the same events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.engine.draft_history import DraftUse
from dsv4_mlx.engine.expert_use import ExpertUse

FinishReason = Literal["stop", "length", "cancelled", "tool_calls", "stop_text", "loop"]
"""`stop` is the model's own end; `stop_text` one of the texts that end an answer, `loop` an answer
that repeated itself and was to end then."""


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """More of the answer."""

    text: str


ReplyPart = ReasoningDelta | TextDelta | ToolCall
"""What the text of a reply gives; a ToolCall comes whole, when the model has closed it."""


@dataclass(frozen=True)
class CallBegun:
    """The model calls tool `name`; what it hands over follows in pieces, then the ToolCall."""

    call_id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of the JSON text of a call's arguments; all pieces make that of its ToolCall."""

    call_id: str
    json: str


CallPart = CallBegun | CallArguments
"""What a call gives while it is written, where that is asked for; see `chat.argument_stream`."""


@dataclass(frozen=True)
class Progress:
    """Prompt tokens read so far, out of those that the cache did not hold."""

    done: int
    total: int
    layers: tuple[int, int] | None = None
    """Layers that the next tokens have passed, and all layers, where they pass them together."""


@dataclass(frozen=True)
class BudgetReached:
    """The reasoning was ended after `tokens` tokens: at a natural end, or hard in between."""

    kind: Literal["soft", "hard"]
    tokens: int


@dataclass(frozen=True)
class LoopNoticed:
    """This part of the reply says the same `period` tokens for the `repeats`-th time in a row."""

    part: Literal["reasoning", "answer"]
    period: int
    repeats: int


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer; `cached_tokens` of the prompt needed no reading.

    `reasoning_tokens` are those of `completion_tokens` that the model thought with.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds of one answer.

    `first_token_s` counts from the request on, waiting and reading included, and is None when no
    token came; `generation_s` runs from the first token to the last.
    """

    prefill_s: float = 0.0
    first_token_s: float | None = None
    generation_s: float = 0.0
    generated: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        """How fast tokens followed one another; None for fewer than two."""
        if self.generated < 2 or self.generation_s <= 0:
            return None
        return (self.generated - 1) / self.generation_s


@dataclass(frozen=True)
class Done:
    """The last event of an answer. Two are equal whatever time they took."""

    finish_reason: FinishReason
    usage: Usage
    timing: Timing = field(default=Timing(), compare=False)
    stop_text: str | None = None
    """The text that ended the answer, for `stop_text`."""
    draft: DraftUse | None = field(default=None, compare=False)
    """What drafts did; None where nothing drafts."""
    exact_rows: int | None = field(default=None, compare=False)
    """Rows of a pass that keep their bits on this GPU; None where the load did not look."""
    drafts_not_loaded: str | None = field(default=None, compare=False)
    """Why the checkpoint's drafts are not there, where memory is short for them."""
    pipeline: Mapping[str, Any] | None = field(default=None, compare=False)
    """`ranks`, and for each of them its `layers` [from, to) and `bytes_loaded`; None on one."""
    experts: ExpertUse | None = field(default=None, compare=False)
    """What prompt and reply found of the experts; None where all are in memory."""
    reply_experts: ExpertUse | None = field(default=None, compare=False)
    """The same of the reply alone."""


Event = Progress | ReplyPart | BudgetReached | LoopNoticed | Done
"""What a conversation yields while it answers."""
