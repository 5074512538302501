"""The state of one timeline of one layer: what is kept of the tokens so far.

Everything in it is either a fixed-size array, which is replaced and never assigned into, or a view
of append-only entries.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import mlx.core as mx

from dsv4_mlx.cache import ring
from dsv4_mlx.cache.entries import Entries, OneCallEntries
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.cache.open_block import MOST_ROWS, PendingRows
from dsv4_mlx.errors import CacheError
from dsv4_mlx.release.layer_roles import LayerRole


@dataclass
class LayerState:
    """One timeline of one layer, at `position` tokens.

    `window` is a ring of stored rows [B, W, ...]; `open_rows` one of raw rows [B, n, C] float32
    with the C columns of `cache_forms.raw_width`: the open compression window and, where windows
    overlap, the one before it. Rows of positions that were not seen yet are zeros that nothing
    reads.
    """

    layout: EntryLayout
    one_call: bool = False  # nothing is kept for another call
    position: int = 0
    window: mx.array | None = None
    open_rows: mx.array | None = None
    entries: Entries | None = None
    keys: Entries | None = None  # of the indexer
    ids: mx.array | None = None
    """The last token ids [B, n] int32 where the layer has Engram; -1 stands before the first."""
    moving: Moving | None = None
    moments: dict[int, dict[str, mx.array]] = field(default_factory=dict)
    """Positions inside the next call that are remembered, and `window`, `open` and `ids` as they
    were."""
    block: PendingRows | None = None
    """Rows that may be taken back, while there are any."""

    def view(self) -> "LayerState":
        """The same timeline for a snapshot or a fork: counts and references, no copies.

        CacheError while a block is open.
        """
        self.check_closed()
        entries = None if self.entries is None else self.entries.view()
        keys = None if self.keys is None else self.keys.view()
        return replace(self, entries=entries, keys=keys, moments={})

    def standing(self) -> Callable[[], None]:
        """What returns to here from a call that was made and never evaluated; see `side_by_side`.

        CacheError while a block is open.
        """
        self.check_closed()
        values = vars(self).copy()
        pools = [pool.standing() for pool in self.pools()]

        def go_back() -> None:
            vars(self).update(values)
            for pool in pools:
                pool()

        return go_back

    def write_window(self, rows: mx.array, size: int) -> None:
        """Put stored rows [B, n, ...] of the tokens from `position` on into the window's ring."""
        self.window = self._written("window", self.window, rows, size)

    def write_open(self, rows: mx.array, size: int) -> None:
        """Put raw rows [B, n, C] of the tokens from `position` on into the ring of open ones."""
        self.open_rows = self._written("open", self.open_rows, rows, size)

    def _written(self, name: str, before: mx.array | None, rows: mx.array, size: int) -> mx.array:
        if self.moving is not None:
            assert before is not None
            return mx.slice_update(before, rows, self.moving.slots[size], axes=(1,))
        for offset, rings in self.moments.items():
            rings[name] = ring.write(before, rows[:, : offset - self.position], self.position, size)
        if self.block is not None:
            self.block.add(name, rows)
        return ring.write(before, rows, self.position, size)

    def begin(self) -> None:
        """Open a block at `position`."""
        before = {"window": self.window, "open": self.open_rows, "ids": self.ids}
        self.block = PendingRows(self.position, before)

    def commit(self, keep: int, ratio: int) -> None:
        """Close the block with its first `keep` rows; `ratio` is the tokens of an entry."""
        block, self.block = self.block, None
        assert block is not None
        self.window = block.ring("window", self.window, keep)
        self.open_rows = block.ring("open", self.open_rows, keep)
        self.ids = block.ids(self.ids, keep)
        self.position = block.position + keep
        for pool in self.pools():
            pool.count = self.position // ratio

    def check_closed(self) -> None:
        """CacheError while a block is open."""
        if self.block is not None:
            raise CacheError(
                f"expected a cache without an open block but found one of "
                f"{self.position - self.block.position} rows; commit those to keep first."
            )

    def check_room(self, count: int) -> None:
        """CacheError where an open block cannot take `count` more rows."""
        if self.block is not None:
            rows = self.position - self.block.position + count
            if rows > MOST_ROWS:
                raise CacheError(
                    f"expected at most {MOST_ROWS} rows in an open block but found {rows}; commit "
                    "those to keep before the next ones."
                )

    def pools(self) -> tuple[Entries, ...]:
        """What grows: entries and index keys, as far as this layer has them."""
        return tuple(pool for pool in (self.entries, self.keys) if pool is not None)

    def arrays(self) -> dict[str, mx.array]:
        """What persists, as far as there is any: `window`, `open`, `ids`, `entries`, `keys`."""
        self.check_closed()
        found = {"window": self.window, "open": self.open_rows, "ids": self.ids}
        for name, pool in (("entries", self.entries), ("keys", self.keys)):
            found[name] = None if pool is None else pool.rows()
        return {name: array for name, array in found.items() if array is not None}

    def fill(self, position: int, arrays: dict[str, mx.array]) -> None:
        """Stand at `position` with what `arrays` gave there."""
        self.position = position
        self.window, self.open_rows = arrays.get("window"), arrays.get("open")
        self.ids = arrays.get("ids")
        if self.entries is not None:
            self.entries = Entries.from_rows(arrays.get("entries"))
        if self.keys is not None:
            self.keys = Entries.from_rows(arrays.get("keys"))

    def fixed(self) -> tuple[mx.array, ...]:
        """The arrays that do not grow."""
        arrays = (self.window, self.open_rows, self.ids)
        return tuple(array for array in arrays if array is not None)

    @property
    def fixed_nbytes(self) -> int:
        """Bytes of the state that does not grow: what a snapshot costs."""
        return sum(array.nbytes for array in self.fixed())

    def evaluated(self) -> list[mx.array]:
        """Every array that must be evaluated for this state to exist."""
        buffers = (pool.buffer() for pool in self.pools())
        held = (array for rings in self.moments.values() for array in rings.values())
        # Rings of an open block may have to be written again, in place and from the old ones.
        fixed = self.fixed() if self.block is None else self.block.arrays()
        return [*fixed, *(buffer for buffer in buffers if buffer is not None), *held]


def new_state(role: LayerRole, layout: EntryLayout, *, one_call: bool = False) -> LayerState:
    """An empty timeline of a layer with this role."""
    new = OneCallEntries if one_call else Entries
    entries = new() if role.owns_entries else None
    return LayerState(layout, one_call, entries=entries, keys=new() if role.selects else None)
