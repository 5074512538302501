"""An open block of one layer: rows that were computed and may be taken back.

The rings as they were when the block began are held beside the rows since; what a call of several
rows writes into a ring stays a promise that nobody evaluates before the block ends. Then either the
promise holds, or the rows to keep are written into the old ring, in place either way. Entries of
windows that close inside the block are appended as ever, since later rows attend them; taking rows
back takes the count back.
"""

from dataclasses import dataclass, field

import mlx.core as mx

from dsv4_mlx.cache import ring

MOST_ROWS = 8
"""Rows of a block: what the kernels of a decoded token take at once."""


@dataclass
class PendingRows:
    """What one timeline of one layer was at `position`, and the rows that it took since."""

    position: int
    before: dict[str, mx.array | None]
    """`window`, `open` and `ids` when the block began."""
    rows: dict[str, list[mx.array]] = field(default_factory=dict)
    """Rows [B, n, ...] of every call since, by the same names; those of `ids` are token ids."""
    first_ids: mx.array | None = None
    """The ids before the block, int32 [B, n], also where the text begins there."""

    def add(self, name: str, rows: mx.array) -> None:
        """Remember rows [B, n, ...] of a call, which follow those of the calls before."""
        self.rows.setdefault(name, []).append(rows)

    def count(self, name: str) -> int:
        """Rows of this name so far."""
        return sum(part.shape[1] for part in self.rows.get(name, []))

    def ring(self, name: str, now: mx.array | None, keep: int) -> mx.array | None:
        """The ring after the first `keep` rows; `now` is the one after all of them."""
        before = self.before[name]
        if keep == 0 or name not in self.rows:
            return before
        if keep == self.count(name):
            return now
        assert now is not None
        return ring.write(before, self._first(name, keep), self.position, now.shape[1])

    def ids(self, now: mx.array | None, keep: int) -> mx.array | None:
        """The same of the last token ids, which are no ring."""
        if keep == 0 or self.first_ids is None:
            return self.before["ids"]
        if keep == self.count("ids"):
            return now
        assert self.first_ids is not None
        kept = self._first("ids", keep).astype(mx.int32)
        return mx.concatenate([self.first_ids, kept], axis=1)[:, keep:]

    def arrays(self) -> list[mx.array]:
        """What has to be evaluated for the rows to exist, and for the block to be taken back."""
        rows = (array for parts in self.rows.values() for array in parts)
        return [*rows, *(array for array in self.before.values() if array is not None)]

    def _first(self, name: str, keep: int) -> mx.array:
        parts = self.rows[name]
        rows = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
        return rows[:, :keep]
