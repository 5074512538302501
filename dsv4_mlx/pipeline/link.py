"""Rank 0's side of the connection: what it asks of the worker, and what it let go of."""

import json
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache import CacheBytes
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


class Coming:
    """The streams of a call that the worker was asked for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.streams: mx.array | None = None
        """Evaluated, once they are here."""
        self.error: Exception | None = None
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
        self._drop()
        self._control.send(asked(operation, *numbers, ids=ids))

    def call(self, cache: Held, ids: "np.ndarray[Any, Any]", width: tuple[int, int]) -> Coming:
        """Ask for the streams [B, S, *width] of token ids [B, S]."""
        coming = Coming((*ids.shape, *width))
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
        found: dict[str, Any] = json.loads(self._answer(PipeOperation.FACTS))
        return found

    def sizes(self, cache: Held) -> CacheBytes:
        """Bytes of the worker's part of a cache."""
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
        self._answer(PipeOperation.FILL, cache.number, position, *numbers)
        self._control.send(listed(arrays))
        self._transfer.send_all(arrays)
        payload_of(self._control.receive(), self.peer)

    def quit(self) -> None:
        """Let the worker end."""
        self._control.send(asked(PipeOperation.QUIT))

    def _answer(self, operation: PipeOperation, *numbers: int) -> bytes:
        while self._under_way:
            self._receive_next()
        self.tell(operation, *numbers)
        return payload_of(self._control.receive(), self.peer)

    def _receive_next(self) -> None:
        """Take in the oldest streams that were asked for: answers come in the order of calls."""
        coming = self._under_way[0]
        try:
            payload_of(self._control.receive(), self.peer)
            coming.streams = self._transfer.receive(coming.shape, self._dtype)
        except Exception as error:
            coming.error = error
        # An interruption leaves it where it is, for the next who waits.
        self._under_way.popleft()

    def _drop(self) -> None:
        numbers = []
        while self._dropped:
            numbers.append(self._dropped.popleft())
        if numbers:
            self._control.send(asked(PipeOperation.DROP, ids=numbers))
