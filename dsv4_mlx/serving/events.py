"""What happens while a request is served, as values: one stream for every dialect.

    Begun -> Progress | LayersPassed ... -> deltas and calls as they are generated -> Done
                                                                                   or Refused

Deltas, calls and `Done` are those of a conversation, see `chat.events`. Every ToolCall comes after
its CallBegun and its CallArguments, whose texts joined are its arguments; nothing of another call
and no text comes between these. A call that has begun may stay open: then the reply ended in it, no
ToolCall comes, and what was given is a beginning of JSON; see `chat.argument_stream`. A request for
several answers gives the events of each with its number; `Begun` to the end is one answer's stream.
Exactly one of Done and Refused comes, as the last event, whatever happens: a cancelled request is
Done with the reason "cancelled".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dsv4_mlx.chat.events import CallArguments, CallBegun, CallPart, Event

__all__ = [
    "Begun",
    "CallArguments",
    "CallBegun",
    "Collected",
    "LayersPassed",
    "Outlet",
    "RefusalKind",
    "Refused",
    "ServedEvent",
    "TokenLikelihood",
]


@dataclass(frozen=True)
class Begun:
    """The answer has its timeline: of `prompt_tokens` tokens `cached_tokens` need no reading."""

    prompt_tokens: int
    cached_tokens: int
    known_tokens: int = field(default=0, compare=False)
    """Tokens at its beginning that had been read before: where it parts from all that was read,
    behind the place from which it is read on."""


@dataclass(frozen=True)
class LayersPassed:
    """Layers that the prompt passed, where it passes one layer as a whole before the next."""

    done: int
    total: int


@dataclass(frozen=True)
class TokenLikelihood:
    """A generated token with the natural logarithm of its probability, the model's own, and the
    likeliest tokens in its place, likeliest first, as many as were asked for."""

    token: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


RefusalKind = Literal["too_long", "memory", "busy", "waited", "invalid", "failed", "unavailable"]


@dataclass(frozen=True)
class Refused:
    """The request ends without an answer, or in the middle of one, and `sentence` says why.

    `too_long` for the context, more `memory` than there is, `busy` with as many others as may wait,
    `waited` longer than allowed, `invalid` as it was asked, `failed` inside the model, or the model
    is `unavailable` for a while.
    """

    kind: RefusalKind
    sentence: str
    error: Exception | None = field(default=None, compare=False, repr=False)
    """What was raised, for `failed`; its trace is for a log."""


ServedEvent = Begun | LayersPassed | TokenLikelihood | Event | CallPart | Refused
"""What a request gives."""


class Outlet(Protocol):
    """Where the events of a request go, as its caller made it; both are asked on the model's
    thread."""

    def emit(self, answer: int, event: ServedEvent, /) -> None:
        """Take an event of answer number `answer`, from 0; it must not block. What it raises ends
        its answer and nothing else."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether whoever reads is so far back that nothing more should be computed for them while
        nobody else waits; `Scheduler.wake` once that ends."""
        ...


class Collected:
    """An outlet that keeps all events; it is never full."""

    is_full = False

    def __init__(self) -> None:
        self.events: list[tuple[int, ServedEvent]] = []

    def emit(self, answer: int, event: ServedEvent) -> None:
        """Keep it."""
        self.events.append((answer, event))

    def of(self, answer: int = 0) -> Sequence[ServedEvent]:
        """The events of one answer."""
        return [event for number, event in self.events if number == answer]
