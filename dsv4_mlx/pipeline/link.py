"""Rank 0's side of the connection: what it asks of the worker, and what it let go of."""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache import CacheBytes
from dsv4_mlx.errors import Dsv4Error, PipelineError
from dsv4_mlx.files.documents import parse_json
from dsv4_mlx.pipeline.control import Control
from dsv4_mlx.pipeline.messages import PipeOperation, asked, payload_of
from dsv4_mlx.pipeline.transfer import Transfer, listed


class Held:
    """The number by which the worker knows a cache or a snapshot.

    Once nobody has it any more, the worker is told so before its next step.
    """

    def __init__(self, number: int, dropped: deque[int]) -> None:
        self.number = number
        weakref.finalize(self, dropped.append, number).atexit = False


@dataclass
class LinkCounts:
    """What went over the connection so far."""

    messages: int = 0
    """On the control socket, both ways."""
    message_bytes: int = 0
    calls: int = 0
    """Streams that were asked for."""
    ahead: int = 0
    """Of them those that the worker computes while rank 0 is busy with the ones before."""
    stream_bytes: int = 0


class Coming:
    """The streams of a call that the worker was asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.is_computed = False
        """Whether the worker said that it sends them now."""
        self.streams: mx.array | None = None
        """Evaluated, once they are here."""
        self.error: Dsv4Error | None = None
        """Why they never will be."""


class Link:
    """Messages to the worker and its answers, in their order."""

    def __init__(self, group: Any, control: Control, dtype: mx.Dtype) -> None:
        """`dtype` is that of streams that travel."""
        self._control, self._dtype = control, dtype
        self._transfer = Transfer(group, control)
        self._numbers = 0
        self._dropped: deque[int] = deque()
        self._under_way: deque[Coming] = deque()
        self._is_broken = False
        self.counts = LinkCounts()

    @property
    def peer(self) -> str:
        """The worker, as people are told of it."""
        return self._control.peer

    def held(self) -> Held:
        """A new number."""
        self._numbers += 1
        return Held(self._numbers, self._dropped)

    def tell(self, operation: PipeOperation, *numbers: int, ids: Iterable[int] = ()) -> None:
        """Ask for what is not answered."""
        if self._is_broken:
            raise PipelineError(
                f"the connection with {self.peer} was left in the middle of an answer; start both "
                "ranks again."
            )
        self._drop()
        self._send(asked(operation, *numbers, ids=ids))

    def call(
        self,
        cache: Held,
        ids: "np.ndarray[Any, Any]",
        width: tuple[int, int],
        *,
        ahead: bool = False,
    ) -> Coming:
        """Ask for the streams [B, S, *width] of token ids [B, S]; `ahead` of others' use is told to
        the counts alone."""
        coming = Coming((*ids.shape, *width))
        self.counts.calls += 1
        self.counts.ahead += ahead
        self.tell(PipeOperation.CALL, cache.number, *ids.shape, ids=ids.reshape(-1).tolist())
        self._under_way.append(coming)
        return coming

    def streams(self, coming: Coming) -> mx.array:
        """The streams that were asked for, in the dtype of those that travel, evaluated.

        PipelineError where the worker could not compute them or is gone.
        """
        while coming.streams is None and coming.error is None:
            self._receive_next()
        if coming.error is not None:
            raise coming.error
        assert coming.streams is not None
        return coming.streams

    def forget(self, coming: Coming) -> None:
        """Take in streams that nobody waits for any more, so that the worker is free."""
        while coming in self._under_way:
            self._receive_next()

    def facts(self) -> dict[str, Any]:
        """What the worker loaded."""
        with self._undivided():
            found: dict[str, Any] = parse_json(self._answer(PipeOperation.FACTS))
            return found

    def sizes(self, cache: Held) -> CacheBytes:
        """Bytes of the worker's part of a cache."""
        with self._undivided():
            found = np.frombuffer(self._answer(PipeOperation.SIZES, cache.number), "<i8")
        window, compressed, index = found.tolist()
        return CacheBytes(window, compressed, index)

    def gathered(self, cache: Held, places: Sequence[Held]) -> dict[str, mx.array]:
        """What the worker has of a timeline and of places of it; see `states` for the names."""
        numbers = [place.number for place in places]
        return self._transfer.receive_all(
            self._answer(PipeOperation.GATHER, cache.number, *numbers)
        )

    def fill(
        self, cache: Held, position: int, places: Mapping[int, Held], arrays: Mapping[str, mx.array]
    ) -> None:
        """Give the worker its part of a timeline, and of its places by their offsets."""
        numbers = [number for at, held in places.items() for number in (at, held.number)]
        with self._undivided():
            self._answer(PipeOperation.FILL, cache.number, position, *numbers)
            self._send(listed(arrays))
            self._transfer.send_all(arrays)
            self._done()

    def quit(self) -> None:
        """Let the worker end."""
        self._send(asked(PipeOperation.QUIT))

    def _answer(self, operation: PipeOperation, *numbers: int) -> bytes:
        while self._under_way:
            self._receive_next()
        self.tell(operation, *numbers)
        return self._done()

    @contextmanager
    def _undivided(self) -> Iterator[None]:
        """Around a question and all of its answer: who is interrupted in the middle would take what
        is left of it for the answer to the next."""
        try:
            yield
        except Dsv4Error:
            raise
        except BaseException:
            self._is_broken = True
            raise

    def _send(self, message: bytes) -> None:
        self._count(message)
        self._control.send(message)

    def _done(self) -> bytes:
        """What the worker answers to what was asked first; PipelineError where it failed."""
        answer = self._control.receive()
        self._count(answer)
        return payload_of(answer, self.peer)

    def _count(self, message: bytes) -> None:
        self.counts.messages += 1
        self.counts.message_bytes += len(message)

    def _receive_next(self) -> None:
        """Take in the oldest streams that were asked for: answers come in the order of calls."""
        coming = self._under_way[0]
        # What is interrupted leaves it where it is, for the next who waits.
        try:
            if not (coming.is_computed or coming.error):
                self._done()
                coming.is_computed = True
            if coming.streams is None and coming.error is None:
                coming.streams = self._transfer.receive(coming.shape, self._dtype)
                self.counts.stream_bytes += coming.streams.nbytes
        except Dsv4Error as error:
            coming.error = error
        self._under_way.popleft()

    def _drop(self) -> None:
        numbers = []
        while self._dropped:
            numbers.append(self._dropped.popleft())
        if numbers:
            self._send(asked(PipeOperation.DROP, ids=numbers))
