"""What the terminal and rank 0's program say to each other, as values through two pipes."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import IO, Any

from dsv4_mlx.chat.events import Event
from dsv4_mlx.chat.model_side import ContextUse
from dsv4_mlx.chat.turns import Turn


@dataclass(frozen=True)
class FarCall:
    """The terminal asks a conversation's side for something; `turns` where they changed."""

    side: int
    method: str
    arguments: tuple[Any, ...] = ()
    turns: tuple[Turn, ...] | None = None
    dropped: tuple[int, ...] = ()
    """Sides that nobody has any more."""


@dataclass(frozen=True)
class FarCancel:
    """The call that runs is to end soon."""


@dataclass(frozen=True)
class FarLoaded:
    """Both ranks are ready."""

    backend: str | None
    max_context: int
    wired: int = 0
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    longest: int = 0
    """Of a program that serves requests: tokens of a prompt and its reply that memory holds."""


@dataclass(frozen=True)
class FarEvent:
    """Something of an answer."""

    event: Event


@dataclass(frozen=True)
class FarAnswer:
    """What a call gave or raised, and how the side stands; `turns` where they changed."""

    value: Any = None
    error: BaseException | None = None
    turns: tuple[Turn, ...] | None = None
    use: ContextUse | None = None


@dataclass(frozen=True)
class FarEnd:
    """The ranks end: why, as a sentence."""

    sentence: str


# What `pickle` raises for a message that was cut off, or that something else wrote into.
_BROKEN = (
    pickle.UnpicklingError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
)


class Pipes:
    """Both ends of a conversation between two programs of ours on one machine, of one version."""

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        self._reading = reading
        self._writing = writing
        self._lock = Lock()

    def send(self, message: object) -> None:
        """For any thread; OSError where nobody reads any more."""
        content = pickle.dumps(message)
        with self._lock:
            self._writing.write(content)
            self._writing.flush()

    def receive(self) -> Any:
        """The next message; EOFError after the last one."""
        try:
            return pickle.load(self._reading)
        except _BROKEN as error:
            raise EOFError from error


def changed(now: Sequence[Turn], known: Sequence[Turn] | None) -> tuple[Turn, ...] | None:
    """`now`, unless the other end knows it."""
    return None if now is known else tuple(now)
