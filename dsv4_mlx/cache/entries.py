"""Compressed entries: append-only pools that timelines share.

A pool is one growing buffer. A timeline (an `Entries`) sees its first `count` rows; rows once
written never change while anybody can see them. The timeline at the tip appends in place (one
donated update), so that a snapshot is a count: it holds the pool, never a copy. Only a
timeline that appends *after* rows another one still sees gets a pool of its own.
"""

import weakref
from collections.abc import Callable

import mlx.core as mx

from dsv4_mlx.cache.ring import with_rows

_ROWS_PER_STEP = 256


class _Pool:
    """One buffer [B, capacity, ...], rows [0, length) written, and who looks at it."""

    def __init__(self) -> None:
        self.buffer: mx.array | None = None
        self.length = 0
        self.viewers: weakref.WeakSet[Entries] = weakref.WeakSet()

    def reserve(self, rows: mx.array) -> mx.array:
        """The buffer with room for `rows` more; grows by a 64th, at least 256 rows."""
        needed = self.length + rows.shape[1]
        if self.buffer is None or needed > self.buffer.shape[1]:
            capacity = max(needed, self.length + self.length // 64)
            capacity = -(-capacity // _ROWS_PER_STEP) * _ROWS_PER_STEP
            spare = (rows.shape[0], capacity - self.length, *rows.shape[2:])
            grown = mx.zeros(spare, rows.dtype)
            if self.buffer is not None:
                grown = mx.concatenate([self.buffer[:, : self.length], grown], axis=1)
            self.buffer = grown
        return self.buffer

    def append(self, rows: mx.array) -> None:
        """Write rows at the tip. The old buffer is dropped here, so the update is in place."""
        buffer, self.buffer = self.reserve(rows), None
        try:
            self.buffer = with_rows(buffer, rows, self.length)
        finally:
            # Others see this pool too: an interrupted append must leave it as it was.
            if self.buffer is None:
                self.buffer = buffer
        self.length += rows.shape[1]


class Entries:
    """One timeline's view of a pool: the first `count` rows."""

    def __init__(self) -> None:
        self.count = 0
        self._pool = _Pool()
        self._pool.viewers.add(self)

    def __len__(self) -> int:
        return self.count

    def append(self, rows: mx.array) -> None:
        """Put stored rows [B, n, ...] after those in view."""
        if rows.shape[1] == 0:
            return
        if self.count < self._pool.length:
            self._leave_others_rows()
        self._pool.append(rows)
        self.count = self._pool.length

    def _leave_others_rows(self) -> None:
        """Rows after ours: dropped when nobody sees them, else we move to a pool of our own."""
        others = (viewer.count for viewer in self._pool.viewers if viewer is not self)
        if max(others, default=0) <= self.count:
            self._pool.length = self.count
            return
        buffer = self._pool.buffer
        seen = buffer[:, : self.count] if buffer is not None and self.count else None
        self._pool.viewers.discard(self)
        self._pool = _Pool()
        self._pool.viewers.add(self)
        if seen is not None:
            self._pool.append(seen)

    def view(self) -> "Entries":
        """The same rows for another timeline or a snapshot: a count, no copy."""
        other = Entries.__new__(Entries)
        other.count, other._pool = self.count, self._pool
        self._pool.viewers.add(other)
        return other

    def standing(self) -> Callable[[], None]:
        """What takes these rows, and the pool, back to how they are now."""
        pool, count, buffer, length = self._pool, self.count, self._pool.buffer, self._pool.length

        def go_back() -> None:
            self._pool.viewers.discard(self)
            self._pool, self.count = pool, count
            pool.buffer, pool.length = buffer, length
            pool.viewers.add(self)

        return go_back

    def whole(self, room: int = 0) -> mx.array | None:
        """The whole buffer, ours from `count` on where `room` more rows are to be put there."""
        if room and self._pool.buffer is not None:
            if self.count < self._pool.length:
                self._leave_others_rows()
            assert self._pool.buffer is not None
            self._pool.reserve(self._pool.buffer[:, :room])
        return self._pool.buffer

    def put(self, buffer: mx.array, room: int) -> None:
        """Take the buffer that `whole` gave, with `room` rows written after ours."""
        self._pool.buffer = buffer
        self._pool.length += room
        self.count = self._pool.length

    def rows(self) -> mx.array | None:
        """Stored rows [B, count, ...] without a copy for B = 1; None while there are none."""
        if self.count == 0:
            return None
        assert self._pool.buffer is not None
        return self._pool.buffer[:, : self.count]

    def buffer(self) -> mx.array | None:
        """The whole buffer: what has to be evaluated for the rows to exist."""
        return self._pool.buffer

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer, spare rows included."""
        return 0 if self._pool.buffer is None else self._pool.buffer.nbytes

    @property
    def pool_id(self) -> int:
        """Names the buffer, so that shared ones are counted once."""
        return id(self._pool)

    @classmethod
    def from_rows(cls, rows: mx.array | None) -> "Entries":
        """Entries that hold stored rows [B, n, ...]."""
        entries = cls()
        if rows is not None and rows.shape[1]:
            entries._pool.append(rows)
            entries.count = rows.shape[1]
        return entries


class OneCallEntries(Entries):
    """Entries of a call without a cache: plain float32 rows, differentiable, kept nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: mx.array | None = None

    def append(self, rows: mx.array) -> None:
        """Store rows [B, n, d] after the earlier ones."""
        if rows.shape[1] == 0:
            return
        self._rows = rows if self._rows is None else mx.concatenate([self._rows, rows], axis=1)
        self.count = self._rows.shape[1]

    def rows(self) -> mx.array | None:
        """All rows [B, count, d]."""
        return self._rows


class MovingEntries(Entries):
    """A whole buffer [B, capacity, ...]: kernels clamp what they read of it by the position.

    A row is written at `start`, int32 [1], so that a graph serves any number of rows.
    """

    def __init__(self, buffer: mx.array, start: mx.array) -> None:
        super().__init__()
        self._buffer, self._start = buffer, start

    def append(self, rows: mx.array) -> None:
        """Put a stored row [B, 1, ...] after those that the position says there are."""
        self._buffer = mx.slice_update(self._buffer, rows, self._start, axes=(1,))

    def rows(self) -> mx.array:
        """All rows, also those that are not written yet."""
        return self._buffer

    def buffer(self) -> mx.array:
        """The same."""
        return self._buffer
