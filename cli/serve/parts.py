"""The parts of an answer: reasoning, text and calls, each opened, grown and closed in its turn.

Served events say what was generated; every dialect shows it as parts that follow one another, of
which one is open at a time. A part that the answer ends in the middle of is closed as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from dsv4_mlx.chat.events import CallArguments, CallBegun, Done, ReasoningDelta, TextDelta
from dsv4_mlx.chat.messages import ToolCall
from dsv4_mlx.serving.events import ServedEvent

PartKind = Literal["reasoning", "text", "call"]
Happening = Literal["opened", "grown", "closed"]


@dataclass(eq=False)
class AnswerPart:
    """One part. Of a call `text` is its arguments, as JSON text."""

    kind: PartKind
    number: int
    """Its place in the answer, from 0."""
    call_id: str = ""
    name: str = ""
    is_whole: bool = False
    """Whether the model closed it itself."""
    _pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self._pieces)


PartStep = tuple[Happening, AnswerPart, str]
"""What happens to a part, and the text it grows by."""


class AnswerParts:
    """Takes the events of one answer."""

    def __init__(self) -> None:
        self.all: list[AnswerPart] = []
        self._open: AnswerPart | None = None

    def take(self, event: ServedEvent) -> Iterator[PartStep]:
        """What an event does; nothing for one that shows nothing."""
        match event:
            case ReasoningDelta(text) if text:
                yield from self._grow("reasoning", text)
            case TextDelta(text) if text:
                yield from self._grow("text", text)
            case CallBegun(call_id, name):
                yield from self._begin("call", call_id, name)
            case CallArguments(_, json):
                yield from self._add(json)
            case ToolCall():
                yield from self._call(event)
            case Done(finish_reason=reason):
                yield from self._close(is_whole=reason not in ("length", "cancelled"))

    def _grow(self, kind: PartKind, text: str) -> Iterator[PartStep]:
        if self._open is None or self._open.kind != kind:
            yield from self._begin(kind)
        yield from self._add(text)

    def _call(self, call: ToolCall) -> Iterator[PartStep]:
        """A whole call, whose arguments may have come in pieces before it."""
        if self._open is None or self._open.call_id != call.id:
            yield from self._begin("call", call.id, call.name)
            yield from self._add(call.arguments)
        yield from self._close(has_call=True)

    def _begin(self, kind: PartKind, call_id: str = "", name: str = "") -> Iterator[PartStep]:
        yield from self._close()
        self._open = AnswerPart(kind, len(self.all), call_id, name)
        self.all.append(self._open)
        yield "opened", self._open, ""

    def _add(self, text: str) -> Iterator[PartStep]:
        assert self._open is not None
        if text:
            self._open._pieces.append(text)
            yield "grown", self._open, text

    def _close(self, *, is_whole: bool = True, has_call: bool = False) -> Iterator[PartStep]:
        """Close what is open; a call is whole if its `ToolCall` has come."""
        if self._open is not None:
            part, self._open = self._open, None
            part.is_whole = is_whole and (part.kind != "call" or has_call)
            yield "closed", part, ""
