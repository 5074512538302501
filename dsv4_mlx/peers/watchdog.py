"""When a rank that is waited for is given up: values alone, with a clock that is handed in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

PEER_TIMEOUT_S = 30.0
CHUNKS = 4
"""Chunks of a prompt after which silence is too long, where that is more."""


class Watchdog:
    """Says whether the other rank is waited for too long; for any thread.

    The limit is `least_s`, or four times the longest wait that ended well, since a chunk of a
    prompt may take long on a model of this size.
    """

    def __init__(self, least_s: float, clock: Callable[[], float]) -> None:
        self._least_s = least_s
        self._clock = clock
        self._since: float | None = None  # None while nothing is waited for
        self._longest_s = 0.0
        self._lock = Lock()

    @property
    def limit_s(self) -> float:
        """Seconds of one wait that are too many."""
        return max(self._least_s, CHUNKS * self._longest_s)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the other rank is waited for; one wait at a time."""
        with self._lock:
            self._since = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._longest_s = max(self._longest_s, self._clock() - self._since)
                self._since = None

    def overdue_s(self) -> float | None:
        """Seconds that the other rank was waited for, once that is too long; None before."""
        with self._lock:
            waited = 0.0 if self._since is None else self._clock() - self._since
            return waited if waited > self.limit_s else None
