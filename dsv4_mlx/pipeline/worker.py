"""Rank 1's loop: it follows headers, computes its layers and holds its part of every timeline.

It sees token ids, since its layers need them, and never logits, seeds or text. Between messages it
sleeps in a read of the control socket.
"""

import json
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from dsv4_mlx import cache as caches
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.snapshots import Snapshot
from dsv4_mlx.errors import Dsv4Error, PipelineError
from dsv4_mlx.pipeline import states
from dsv4_mlx.pipeline.control import Control
from dsv4_mlx.pipeline.messages import ANSWERED, PipeOperation, done, failed, understood
from dsv4_mlx.pipeline.part import ModelPart
from dsv4_mlx.pipeline.transfer import Transfer, listed

_LOG = logging.getLogger("dsv4_mlx.pipeline")


class WorkerAnswer(NamedTuple):
    """What rank 0 gets on the control socket, and what follows it by the group."""

    payload: bytes = b""
    then: Callable[[], None] | None = None


def work(part: ModelPart, group: Any, control: Control) -> None:
    """Do what rank 0 asks until it says that it ends, or closes the socket.

    What fails is told to rank 0, and the worker goes on. PipelineError where a transfer breaks.
    """
    worker = PipeWorker(part, group, control)
    while worker.follow():
        pass


class PipeWorker:
    """The layers of rank 1, and the state in them of rank 0's timelines."""

    def __init__(self, part: ModelPart, group: Any, control: Control) -> None:
        self._part, self._control = part, control
        self._transfer = Transfer(group, control)
        self._caches: dict[int, list[LayerCache]] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._failure = ""
        self._answers: dict[PipeOperation, Callable[..., WorkerAnswer]] = {
            PipeOperation.FACTS: self._facts,
            PipeOperation.CALL: self._call,
            PipeOperation.SIZES: self._sizes,
            PipeOperation.GATHER: self._gather,
            PipeOperation.FILL: self._fill,
        }
        self._follows: dict[PipeOperation, Callable[..., None]] = {
            PipeOperation.NEW: self._new,
            PipeOperation.DROP: self._drop,
            PipeOperation.SNAPSHOT: self._snapshot,
            PipeOperation.RESTORE: self._restore,
            PipeOperation.FORK: self._fork,
            PipeOperation.MARK: self._mark,
            PipeOperation.MARKED: self._marked,
            PipeOperation.MERGE: self._merge,
            PipeOperation.EXTRACT: self._extract,
            PipeOperation.PREPARE: self._prepare,
            PipeOperation.FINALIZE: self._finalize,
            PipeOperation.COMPACT: self._compact,
        }

    @property
    def held(self) -> tuple[int, int]:
        """Caches and snapshots that rank 0 has not let go of."""
        return len(self._caches), len(self._snapshots)

    def follow(self) -> bool:
        """Wait for a message and do what it says; whether another may follow."""
        try:
            operation, numbers = understood(self._control.receive())
        except EOFError:
            return False
        if operation is PipeOperation.QUIT:
            return False
        if operation in ANSWERED:
            self._answer(self._answers[operation], numbers)
        else:
            self._do(self._follows[operation], numbers)
        return True

    def _do(self, follow: Callable[..., None], numbers: list[int]) -> None:
        """Follow in silence; a failure is the answer to the next message that has one."""
        try:
            follow(*numbers)
        except Exception as error:  # whatever it is, rank 0 waits for the next answer
            self._failure = self._failure or self._sentence(error)

    def _answer(self, answered: Callable[..., WorkerAnswer], numbers: list[int]) -> None:
        failure, self._failure = self._failure, ""
        try:
            if failure:
                raise PipelineError(failure)
            answer = answered(*numbers)
        except Exception as error:  # whatever it is, rank 0 waits
            self._control.send(failed(self._sentence(error)))
            return
        self._control.send(done(answer.payload))
        if answer.then is not None:
            answer.then()

    def _facts(self) -> WorkerAnswer:
        part = self._part
        facts = {
            "layers": [part.own.start, part.own.stop],
            "bytes_loaded": part.bytes_loaded,
            "fingerprint": part.fingerprint,
            "numerics": part.numerics.value,
            "layout": part.layout.name,
        }
        return WorkerAnswer(json.dumps(facts).encode())

    def _call(self, cache: int, batch: int, length: int, *ids: int) -> WorkerAnswer:
        tokens = mx.array(ids, mx.int32).reshape(batch, length)
        state = self._caches[cache]
        streams = self._part.through(self._part.embedded(tokens), tokens, state)
        streams = streams.astype(self._part.stream_dtype)
        mx.eval(streams, caches.evaluated(state))
        return WorkerAnswer(then=lambda: self._transfer.send(streams))

    def _sizes(self, cache: int) -> WorkerAnswer:
        found = caches.sizes(self._caches[cache])
        return WorkerAnswer(
            np.array([found.window, found.compressed, found.index], "<i8").tobytes()
        )

    def _gather(self, cache: int, *places: int) -> WorkerAnswer:
        arrays = states.arrays_of(self._caches[cache], self._part.own)
        for place in places:
            arrays |= states.rings_of(self._snapshots[place], self._part.own)
        return WorkerAnswer(listed(arrays), lambda: self._transfer.send_all(arrays))

    def _fill(self, *numbers: int) -> WorkerAnswer:
        return WorkerAnswer(then=lambda: self._answer(self._filled, list(numbers)))

    def _filled(self, cache: int, position: int, *places: int) -> WorkerAnswer:
        arrays = self._transfer.receive_all(self._control.receive())
        new = self._caches[cache] = self._part.make_cache()
        states.filled(new, self._part.own, position, arrays)
        for offset, number in zip(places[::2], places[1::2], strict=True):
            self._snapshots[number] = states.place_of(new, self._part.own, offset, arrays)
        return WorkerAnswer()

    def _new(self, cache: int) -> None:
        self._caches[cache] = self._part.make_cache()

    def _drop(self, *numbers: int) -> None:
        for number in numbers:
            self._caches.pop(number, None)
            self._snapshots.pop(number, None)

    def _snapshot(self, cache: int, snapshot: int) -> None:
        self._snapshots[snapshot] = caches.snapshot(self._caches[cache])

    def _restore(self, cache: int, snapshot: int) -> None:
        caches.restore(self._caches[cache], self._snapshots[snapshot])

    def _fork(self, cache: int, new: int) -> None:
        self._caches[new] = caches.fork(self._caches[cache])

    def _mark(self, cache: int, *offsets: int) -> None:
        caches.mark(self._caches[cache], offsets)

    def _marked(self, cache: int, *snapshots: int) -> None:
        found = caches.marked(self._caches[cache])
        self._snapshots |= dict(zip(snapshots, found, strict=True))

    def _merge(self, new: int, *given: int) -> None:
        layers = zip(*(self._caches[number] for number in given), strict=True)
        self._caches[new] = [LayerCache.merge(rows) for rows in layers]

    def _extract(self, cache: int, row: int, new: int) -> None:
        self._caches[new] = [layer.extract(row) for layer in self._caches[cache]]

    def _prepare(self, cache: int, rows: int, *padding: int) -> None:
        left, lengths, right = (list(padding[at : at + rows]) for at in (0, rows, 2 * rows))
        for layer in self._caches[cache]:
            layer.prepare(left_padding=left, lengths=lengths, right_padding=right)

    def _finalize(self, cache: int) -> None:
        for layer in self._caches[cache]:
            layer.finalize()

    def _compact(self, *snapshots: int) -> None:
        found = caches.compacted([self._snapshots[number] for number in snapshots])
        self._snapshots |= dict(zip(snapshots, found, strict=True))

    def _sentence(self, error: Exception) -> str:
        """What rank 0 is told of an error, of a kernel that is to blame where one is; the trace of
        a mistake of ours goes to the log."""
        try:
            if self._part.explain is not None:
                self._part.explain(error)
        except Dsv4Error as explained:
            return str(explained)
        if isinstance(error, Dsv4Error):
            return str(error)
        _LOG.info("a mistake", exc_info=error)
        return f"{type(error).__name__}: {error}; start both ranks again."
