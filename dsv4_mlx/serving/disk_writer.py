"""How files of the disk tier come to disk: in their order, and the model waits for none of it.

What is in a file is written on the model's thread, since arrays are its own. Its sum, the disk's
word that it has everything and its name need no model.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from dsv4_mlx.cache.pieces import CacheOutline
from dsv4_mlx.files.finishing import Finishing, finished_by

_HOUR_S: Final = 3600.0
MOST_UNFINISHED: Final = 4
"""Files on their way to the disk; what is counted of a file is counted once it is there, so that a
disk that lags behind for longer would take more than it may."""


@dataclass(frozen=True)
class FinishedFile:
    """What a file turned out to be."""

    outline: CacheOutline
    nbytes: int


Writing: TypeAlias = Future[FinishedFile]
"""A file on its way to the disk."""


class HourlyBytes:
    """At most so many bytes in an hour of `clock`, so that no client wears a disk out."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most, self.clock = most, clock
        self.total = 0
        """Of all hours."""
        self._latest: deque[tuple[float, int]] = deque()

    def add(self, nbytes: int) -> None:
        """So many more were written now."""
        self.total += nbytes
        self._latest.append((self.clock(), nbytes))

    @property
    def allows_more(self) -> bool:
        """Whether more may be written now."""
        while self._latest and self._latest[0][0] < self.clock() - _HOUR_S:
            self._latest.popleft()
        return sum(nbytes for _, nbytes in self._latest) < self.most


class AtOnce(Executor):
    """Does everything at once, on the thread that asks."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        """What `fn` gave or raised."""
        future: Future[object] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # whoever asks the future is told, whatever it is
            future.set_exception(error)
        return future


class DiskWriter:
    """Writes files one after the other."""

    def __init__(
        self, outline: Callable[[Path], CacheOutline], hand: Executor | None = None
    ) -> None:
        """`hand` finishes files, by one thread of its own; without one it is done at once."""
        self._outline, self._hand = outline, hand or AtOnce()
        self._unfinished: deque[Writing] = deque()

    def write(self, path: Path, save: Callable[[Path], None]) -> Writing:
        """Let `save` write a file; the future comes once it lies on the disk under its name.

        Waits while `MOST_UNFINISHED` are on their way. Raises what `save` does; the future has
        CacheError or OSError of what comes after it.
        """
        while self._unfinished and (
            self._unfinished[0].done() or len(self._unfinished) == MOST_UNFINISHED
        ):
            self._unfinished.popleft().exception()
        left: list[Finishing] = []
        with finished_by(left.append):
            save(path)

        def finish() -> FinishedFile:
            for work in left:
                work()
            return FinishedFile(self._outline(path), path.stat().st_size)

        self._unfinished.append(self._hand.submit(finish))
        return self._unfinished[-1]
