"""How the one thread is shared between reading and answering: in turns of about equal time.

A quantum of a read is a whole number of chunks, as many as take about `quantum_s`. After each,
whoever is answering gets rounds of tokens until these took as long, one at the least. So a long
prompt slows an answer down to half its speed, whatever their chunks and tokens cost.
"""

from collections.abc import Callable
from typing import Final

_LATEST: Final = 0.25
"""Share of the latest time in what a chunk is taken to take."""


class TurnPace:
    """Times of chunks and rounds by `clock`, and whose turn it is."""

    def __init__(self, clock: Callable[[], float], quantum_s: float) -> None:
        self._clock, self._quantum_s = clock, quantum_s
        self._chunk_s: float | None = None
        self._owed_s = 0.0
        self._owes_round = False
        self._began = 0.0

    @property
    def chunks(self) -> int:
        """Chunks of the next quantum."""
        if not self._chunk_s:
            return 1
        return max(1, int(self._quantum_s / self._chunk_s))

    @property
    def answers_next(self) -> bool:
        """Whether those who answer come before the next quantum of a read."""
        return self._owes_round or self._owed_s > 0

    def begin(self) -> None:
        """A quantum or a round begins."""
        self._began = self._clock()

    def read(self, chunks: int) -> None:
        """A quantum of so many chunks was read."""
        seconds = self._clock() - self._began
        self._owes_round, self._owed_s = True, seconds
        if chunks:
            one, before = seconds / chunks, self._chunk_s
            self._chunk_s = one if before is None else before + _LATEST * (one - before)

    def answered(self) -> None:
        """A round of tokens was generated."""
        self._owes_round = False
        self._owed_s -= self._clock() - self._began

    def nobody_answers(self) -> None:
        """Nothing is owed to anybody."""
        self._owes_round, self._owed_s = False, 0.0
