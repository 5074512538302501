"""Rows of a table that were read lately, in a bounded amount of memory.

Eight places share the rows whose numbers leave the same remainder, and the one used longest ago
goes first: a least-recently-used cache whose memory is that of its arrays, and which finds or
takes the rows of a whole chunk of a prompt at once.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dsv4_mlx.release.engram_hash import Ids
from dsv4_mlx.weights.streaming import Bytes

WAYS = 8
"""Places of one remainder."""
_NOTE_BYTES = 16  # a row's number, and when it was used


class KeptRows:
    """At most `limit` bytes of rows and notes about them; parts of a row are `widths` bytes."""

    def __init__(self, widths: Sequence[int], limit: int) -> None:
        self._sets = limit // (WAYS * (sum(widths) + _NOTE_BYTES))
        self._numbers = np.full((self._sets, WAYS), -1, np.int64)
        self._used = np.zeros((self._sets, WAYS), np.int64)
        self._parts = [np.empty((self._sets * WAYS, width), np.uint8) for width in widths]
        self._clock = 0

    @property
    def capacity(self) -> int:
        """Rows that there is room for."""
        return self._sets * WAYS

    @property
    def nbytes(self) -> int:
        """Bytes that are taken, however many rows there are."""
        return self._numbers.nbytes + self._used.nbytes + sum(p.nbytes for p in self._parts)

    def has(self, numbers: Ids) -> npt.NDArray[np.bool_]:
        """Which of the distinct `numbers` [n] are kept, bool [n]; these count as used now."""
        return self._used_now(numbers) >= 0

    def find(self, numbers: Ids, into: Sequence[Bytes]) -> npt.NDArray[np.bool_]:
        """As `has`; what is kept is copied to its places of `into`, [n, width] for each part."""
        slots = self._used_now(numbers)
        found = slots >= 0
        for buffer, part in zip(into, self._parts, strict=True):
            buffer[found] = part[slots[found]]
        return found

    def _used_now(self, numbers: Ids) -> Ids:
        """Where the numbers lie, -1 for those that do not."""
        if not self._sets:
            return np.full(numbers.size, -1)
        sets = numbers % self._sets
        there = self._numbers[sets] == numbers[:, None]
        slots = np.where(there.any(axis=1), sets * WAYS + there.argmax(axis=1), -1)
        self._clock += 1
        self._used.reshape(-1)[slots[slots >= 0]] = self._clock
        return slots

    def keep(self, numbers: Ids, parts: Sequence[Bytes]) -> None:
        """Keep distinct rows [n], [n, width] for each part, unless they are kept already; of more
        than WAYS with one remainder the first."""
        if not self._sets:
            return
        new = ~(self._numbers[numbers % self._sets] == numbers[:, None]).any(axis=1)
        order = np.flatnonzero(new)[np.argsort(numbers[new] % self._sets, kind="stable")]
        sets = numbers[order] % self._sets
        rank = np.arange(sets.size) - np.searchsorted(sets, sets)
        order, sets, rank = order[rank < WAYS], sets[rank < WAYS], rank[rank < WAYS]
        oldest = np.argsort(self._used[sets], axis=1, kind="stable")
        slots = sets * WAYS + oldest[np.arange(sets.size), rank]
        self._clock += 1
        self._numbers.reshape(-1)[slots] = numbers[order]
        self._used.reshape(-1)[slots] = self._clock
        for kept, part in zip(self._parts, parts, strict=True):
            kept[slots] = part[order]
