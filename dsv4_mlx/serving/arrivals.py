"""What other threads hand to the one that owns the model: requests, pieces of work, and a nudge."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Final, TypeAlias

from dsv4_mlx.errors import ServiceEnded
from dsv4_mlx.serving.job import AnswerJob
from dsv4_mlx.serving.ticket import AskedCall, Result

RequestJobs: TypeAlias = tuple[AnswerJob, ...]
"""The answers of one request, at least one; that which reads the prompt first."""

_ENDED: Final = "The model works for nobody any longer; ask again when the server is back."


class Arrivals:
    """A line that everybody may join and that one thread takes from."""

    def __init__(self) -> None:
        self._line: SimpleQueue[RequestJobs | AskedCall | None] = SimpleQueue()
        self._is_closed, self._closing = False, Lock()

    # From any thread

    def hand_in(self, jobs: RequestJobs) -> None:
        """Join with a request; once the line is closed it is cancelled here and now."""
        with self._closing:
            if not self._is_closed:
                self._line.put(jobs)
                return
            for job in jobs:
                job.cancel_waiting()

    def wake(self) -> None:
        """Let whoever waits for something look again."""
        self._line.put(None)

    def call(self, work: Callable[[], Result]) -> "Future[Result]":
        """Let the thread that takes do `work` when its turn comes; once the line is closed nobody
        does, and the future has ServiceEnded."""
        asked = AskedCall(work)
        with self._closing:
            if self._is_closed:
                asked.future.set_exception(ServiceEnded(_ENDED))
            else:
                self._line.put(asked)
        return asked.future

    def close(self) -> None:
        """Let nobody join any more; whoever is in line stays in it."""
        with self._closing:
            self._is_closed = True

    # On the thread that takes

    def taken(self, *, waits: bool = False) -> Iterator[RequestJobs]:
        """The requests that came, in their order; work is done on the way. One that `waits` stays
        until there is anything."""
        while True:
            try:
                found = self._line.get(block=waits)
            except Empty:
                return
            waits = False
            if isinstance(found, AskedCall):
                found.run()
            elif found is not None:
                yield found
