"""What a server and rank 0's program say to each other beside `messages`, through the same pipes.

The server's side numbers its requests and questions. An answer to one of them is a `FarGiven` with
its number, and the events of a request come as `FarServed` until its last answer is over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dsv4_mlx.serving.events import ServedEvent
from dsv4_mlx.serving.request import GenerationRequest


@dataclass(frozen=True)
class FarRequest:
    """Serve this; `is_warm`: read only what it begins with."""

    number: int
    request: GenerationRequest
    is_warm: bool = False


@dataclass(frozen=True)
class FarQuestion:
    """What `work(service, *arguments)` gives; on the model's thread, or on any."""

    number: int
    work: Callable[..., Any]
    """A function of a module, which both programs find by its name."""
    arguments: tuple[Any, ...] = ()
    on_model: bool = True


@dataclass(frozen=True)
class FarGiven:
    """Answers a question, or says that a request was handed in, or why it was not."""

    number: int
    value: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class FarServed:
    """An event of a request's answer."""

    number: int
    answer: int
    event: ServedEvent


@dataclass(frozen=True)
class FarFull:
    """Whether whoever reads the answers of a request is too far back."""

    number: int
    is_full: bool


@dataclass(frozen=True)
class FarLeft:
    """Nobody wants a request's answers any longer."""

    number: int


@dataclass(frozen=True)
class FarStop:
    """Serve nothing more: cancel what there is, keep what was read, and end."""
