"""What a dialect is: how it reads a body, and how it writes what happens. No HTTP is in it.

A dialect is an object that the server asks in this order:

    asked = dialect.read(body, context)       # RequestFault for a body that asks for nothing
    asked.writer.begin()                      # frames at once, before the model knows of it
    asked.writer.event(answer, event)         # frames for each event of `dsv4_mlx.serving.events`
    asked.writer.heartbeat(heard)             # whenever nothing was written for some seconds
    asked.writer.end()                        # frames once every answer is Done
    asked.writer.failed(fault)                # or these, when one is Refused or the server fails

A client that asked for no stream gets `writer.whole()` after the same events; their frames are
thrown away. `end` and `whole` may wait for a disk and are called on a thread. Before anything was
written a fault is `dialect.error(fault)`, with its own status. Deltas may come joined: several in a
row as one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from cli.serve.faults import Fault
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.serving.events import ServedEvent
from dsv4_mlx.serving.request import GenerationRequest

_LINE_ENDS: Final = {end: f"\\u{end:04x}" for end in (0x85, 0x2028, 0x2029)}


@dataclass(frozen=True)
class Frame:
    """A piece of a stream of server-sent events: data with a name or none, or a comment alone."""

    data: str = ""
    event: str | None = None
    comment: str | None = None

    def encode(self) -> bytes:
        """Its bytes. Data is one line, as JSON text is, also for clients that split at every end of
        a line that Unicode has."""
        if self.comment is not None:
            return f": {self.comment}\n\n".encode()
        name = "" if self.event is None else f"event: {self.event}\n"
        return f"{name}data: {self.data.translate(_LINE_ENDS)}\n\n".encode("utf-8", "replace")


@dataclass(frozen=True)
class Heard:
    """How far a request is of which nothing else can be told: `done` of `total` tokens of the
    prompt that had to be read, or layers it passed."""

    state: Literal["loading", "waiting", "reading", "answering"]
    done: int = 0
    total: int = 0
    unit: Literal["tokens", "layers"] = "tokens"

    def __str__(self) -> str:
        return f"{self.state} {self.done}/{self.total} {self.unit}" if self.total else self.state


@dataclass(frozen=True)
class ErrorBody:
    """What a client gets in the place of an answer."""

    status: int
    body: Mapping[str, Any]


@dataclass(frozen=True)
class DialectContext:
    """What holds for a request beside its body."""

    model: str
    """The model's id, which answers carry."""
    names: tuple[str, ...]
    """All names that a request may call it by, the id first."""
    checkpoint: ChatSettings
    defaults: AnswerSettings
    """What holds where a request says nothing."""
    token_bytes: Callable[[int], bytes]
    """The bytes of a token; of a control token too."""
    new_id: Callable[[str], str]
    """An id that nothing else has, beginning with a text."""
    now: Callable[[], int]
    """Seconds since 1970."""
    owner: str = ""
    """Who asks, for `GenerationRequest.owner`."""


class AnswerWriter(Protocol):
    """Writes one request's answers; see the module for the order of calls."""

    has_comments: bool
    """Whether a heartbeat is a comment, of which there may be several in a second."""

    def begin(self) -> Sequence[Frame]: ...

    def event(self, answer: int, event: ServedEvent, /) -> Sequence[Frame]: ...

    def heartbeat(self, heard: Heard, /) -> Frame: ...

    def end(self) -> Sequence[Frame]: ...

    def failed(self, fault: Fault, /) -> Sequence[Frame]: ...

    def whole(self) -> Mapping[str, Any]:
        """The body for a client that asked for no stream, once every answer is Done."""
        ...


@dataclass(frozen=True)
class Asked:
    """What a body asks for, and who writes it."""

    request: GenerationRequest
    writer: AnswerWriter
    streams: bool = False
    passed_over: tuple[str, ...] = ()
    """Tools and other things of the body that are not offered here, for the log."""


class Dialect(Protocol):
    """One way to ask and to be answered."""

    name: str
    """For logs and counters."""

    def read(self, body: Mapping[str, Any], context: DialectContext, /) -> Asked:
        """What `body` asks for; RequestFault with the field that is wrong, or any Dsv4Error."""
        ...

    def error(self, fault: Fault, /) -> ErrorBody: ...


class TokenCounter(Protocol):
    """A way to ask how many tokens a prompt has."""

    name: str

    def read(self, body: Mapping[str, Any], context: DialectContext, /) -> GenerationRequest: ...

    def counted(self, tokens: int, /) -> Mapping[str, Any]:
        """The body that says so."""
        ...

    def error(self, fault: Fault, /) -> ErrorBody: ...
