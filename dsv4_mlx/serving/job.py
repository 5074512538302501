"""One answer on its way, and how far it is: waiting, reading its prompt, answering, written."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import TYPE_CHECKING, Literal

from dsv4_mlx.chat.events import Done, Usage
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.serving.events import (
    Outlet,
    RefusalKind,
    Refused,
    ServedEvent,
)
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.timelines import Pin

if TYPE_CHECKING:
    from dsv4_mlx.serving.constraint import AnswerConstraint

State = Literal["waiting", "reading", "answering", "storing", "ended"]
ServingClock = Callable[[], float]


@dataclass(frozen=True)
class ServedPrompt:
    """A request's prompt as tokens. `boundaries` are the offsets where user turns begin, and
    `beginnings` those where what many prompts begin with ends."""

    tokens: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    beginnings: tuple[int, ...] = ()
    goes_on: bool = False
    """Whether it ends inside an answer, which then goes on without reasoning."""
    asked: str = ""
    """What is asked, as `said.said_before` tells it apart."""


@dataclass(eq=False)
class AnswerJob:
    """Answer number `number` of a request; all but `cancelled` belongs to the model's thread."""

    request: GenerationRequest
    prompt: ServedPrompt
    outlet: Outlet
    number: int = 0
    cancelled: Flag = field(default_factory=Flag)
    constraint_of: "Callable[[], AnswerConstraint] | None" = field(default=None, repr=False)
    """Makes what the answer is held to, where it is held to anything."""
    leader: "AnswerJob | None" = field(default=None, repr=False)
    """The job that reads the prompt first, for this one to go on from where it ends."""
    has_followers: bool = False
    asked_at: float = 0.0
    most_reply: int = 0
    """Tokens that the reply may have."""
    state: State = "waiting"
    reserved_bytes: int = 0
    pin: Pin | None = field(default=None, repr=False)
    read: int = 0
    """Tokens of the prompt that the timeline holds."""
    read_at: int = 0
    """Of all quanta, the number of the one in which it was read last."""
    passed_over: int = 0
    """Requests that began before it although they came later."""

    @property
    def remaining(self) -> int:
        """Tokens to read."""
        found = self.read if self.pin is None else self.pin.tokens
        return len(self.prompt.tokens) - found

    @property
    def must_wait(self) -> bool:
        """Whether its leader has not read the prompt yet."""
        leader = self.leader
        return leader is not None and leader.state in ("waiting", "reading")

    def emit(self, event: ServedEvent) -> None:
        """Give an event."""
        self.outlet.emit(self.number, event)

    def refuse(self, kind: RefusalKind, sentence: str) -> None:
        """End before anything was done."""
        self._end(Refused(kind, sentence))

    def cancel_waiting(self) -> None:
        """End a job that never began."""
        self._end(Done("cancelled", Usage(len(self.prompt.tokens), 0, 0)))

    def fail(self, error: Exception, while_doing: str = "The model failed") -> None:
        """End with an error and say so, if it has not ended."""
        told = str(error) if isinstance(error, Dsv4Error) else f"{while_doing}: {error}"
        self._end(Refused("failed", told, error))

    def _end(self, event: ServedEvent) -> None:
        if self.state != "ended":
            self.state = "ended"
            if self.pin is not None:
                self.pin.release()
            with suppress(Exception):  # an outlet is its caller's; one that fails hears no more
                self.emit(event)
