"""Events on their way from the model's thread to the event loop that writes them.

The model's thread never waits for a client: it leaves events here and tells the loop once until
they are taken. A client that reads slowly leaves them lying; from `MOST_PENDING` on its request
gets no more quanta, and goes on once they are taken. It goes on too while others wait for its
place: then all of its answer may lie here. What lies here is taken together, deltas in a row as
one, so the more there is to do the less is spent on frames.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Final

from dsv4_mlx.chat.events import CallArguments, ReasoningDelta, TextDelta
from dsv4_mlx.serving.events import ServedEvent

MOST_PENDING: Final = 256

Numbered = tuple[int, ServedEvent]
"""An event with the number of its answer."""


class EventBridge:
    """The outlet of one request; `wake` tells the scheduler that it takes events again."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wake: Callable[[], None],
        most_pending: int = MOST_PENDING,
    ) -> None:
        self._loop, self._wake, self._most = loop, wake, most_pending
        self._pending: list[Numbered] = []
        self.pieces = 0
        """Deltas that came so far, about as many as tokens were generated."""
        self._lock = Lock()
        self._is_told = False
        self._has_come = asyncio.Event()

    # On the model's thread

    def emit(self, answer: int, event: ServedEvent) -> None:
        """Leave an event; nobody may be there any longer to take it."""
        with self._lock:
            self._pending.append((answer, event))
            self.pieces += isinstance(event, TextDelta | ReasoningDelta | CallArguments)
            is_told, self._is_told = self._is_told, True
        if not is_told:
            self.tell()

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= self._most

    # From any thread

    def tell(self) -> None:
        """Let `take` look, whatever has come."""
        try:
            self._loop.call_soon_threadsafe(self._has_come.set)
        except RuntimeError:  # the loop has ended, and with it whoever would take events
            return

    # In the event loop

    async def take(self, seconds: float) -> Sequence[Numbered]:
        """What has come, waiting for so long; nothing where nothing came, or at `tell`."""
        try:
            async with asyncio.timeout(seconds):
                await self._has_come.wait()
        except TimeoutError:
            return ()
        self._has_come.clear()
        with self._lock:
            was_full, taken = self.is_full, self._pending
            self._pending, self._is_told = [], False
        if was_full:
            self._wake()
        return joined(taken)


def joined(events: Iterable[Numbered]) -> list[Numbered]:
    """The same events, deltas of one kind in a row as one."""
    found: list[Numbered] = []
    for answer, event in events:
        whole = _both(found[-1][1], event) if found and found[-1][0] == answer else None
        if whole is None:
            found.append((answer, event))
        else:
            found[-1] = (answer, whole)
    return found


def _both(one: ServedEvent, other: ServedEvent) -> ServedEvent | None:
    """Two events as one; None where they are not two pieces of the same."""
    match one, other:
        case TextDelta(first), TextDelta(second):
            return TextDelta(first + second)
        case ReasoningDelta(first), ReasoningDelta(second):
            return ReasoningDelta(first + second)
        case CallArguments(name, first), CallArguments(same, second) if name == same:
            return CallArguments(name, first + second)
    return None
