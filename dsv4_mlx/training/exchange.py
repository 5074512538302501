"""How the workers of one training run meet: sums of a few numbers, the same in each of them.

The first worker adds them up in the order of the workers and tells all. Whoever calls `summed`
waits until all have, so that what each wrote before is there for the others.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from dsv4_mlx.errors import TrainingError

Numbers = Sequence[float] | np.ndarray


class Exchange(Protocol):
    """One worker's way to the others."""

    rank: int
    count: int

    def summed(self, values: Numbers) -> np.ndarray:
        """Sums over all workers, float64 [n]; each gives as many numbers."""


class OthersExchange:
    """That of every worker but the first, over its link; EOFError once the first is gone."""

    def __init__(self, rank: int, count: int, link: Connection):
        self.rank, self.count, self._link = rank, count, link

    def summed(self, values: Numbers) -> np.ndarray:
        self._link.send(("values", np.asarray(values, float)))
        found: np.ndarray = self._link.recv()
        return found


class FirstExchange:
    """That of the first worker, which has a link to each of the others.

    TrainingError where one of them is gone or could not do its part.
    """

    rank = 0

    def __init__(self, links: Sequence[Connection], processes: Sequence[subprocess.Popen[bytes]]):
        self.count = len(links) + 1
        self._links, self._processes = links, processes

    def summed(self, values: Numbers) -> np.ndarray:
        total = np.asarray(values, float)
        for number in range(len(self._links)):
            total = total + self._received(number)
        self.tell(total)
        return total

    def tell(self, message: Any) -> None:
        """Send all the same."""
        for number in range(len(self._links)):
            self.send(number, message)

    def send(self, number: int, message: Any) -> None:
        """Send one of the others a message, which is numbered from 0."""
        try:
            self._links[number].send(message)
        except OSError:
            raise self._gone(number) from None

    def _received(self, number: int) -> np.ndarray:
        try:
            kind, content = self._links[number].recv()
        except (EOFError, OSError):
            raise self._gone(number) from None
        if kind == "failed":
            raise self._ended(number, f"failed: {content}")
        found: np.ndarray = content
        return found

    def _gone(self, number: int) -> TrainingError:
        status = self._processes[number].wait()
        if status < 0:
            return self._ended(number, f"was ended by {signal.Signals(-status).name}")
        return self._ended(number, f"ended with status {status}")

    def _ended(self, number: int, how: str) -> TrainingError:
        return TrainingError(
            f"expected {self.count} workers to go on but number {number + 2} {how}; the run is as "
            "it was last saved, the same command goes on from there."
        )
