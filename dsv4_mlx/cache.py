"""All state that outlives a call: per layer the window, the open compression windows, the entries.

A `LayerState` is one timeline of one layer. Everything in it is either a fixed-size array, which
is replaced and never assigned into, or a view of append-only entries; so a snapshot is a count and
the fixed-size state, `restore` moves the count back, and a fork shares the entries
until both timelines go on.

A `LayerCache` holds the states of a batch, one per row, each at its own position. Ragged batches
are therefore exactly their single runs: padding never enters a state. It follows mlx-lm's cache
protocol (`state`, `merge`, `filter`, `extend`, `extract`, `prepare`, `finalize`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx

from dsv4_mlx.entries import BF16, COMPACT, LAYOUTS, PLAIN, Entries, EntryLayout, Unstored
from dsv4_mlx.errors import CacheError, UsageError


@dataclass
class LayerState:
    """One timeline of one layer, at `position` tokens.

    `window` is a ring of stored rows [B, W, ...]; `open_rows` one of raw projections [B, n, C]
    float32: the open compression window and, where windows overlap, the one before it. Rows of
    positions that were not seen yet are zeros that nothing reads.
    """

    layout: EntryLayout
    stored: bool = True  # False: a call that keeps nothing
    position: int = 0
    window: mx.array | None = None
    open_rows: mx.array | None = None
    entries: Entries | None = None
    keys: Entries | None = None  # of the indexer

    def view(self) -> "LayerState":
        """The same timeline for a snapshot or a fork: counts and references, no copies."""
        entries = None if self.entries is None else self.entries.view()
        keys = None if self.keys is None else self.keys.view()
        return replace(self, entries=entries, keys=keys)

    def pools(self) -> tuple[Entries, ...]:
        """What grows: entries and index keys, as far as this layer has them."""
        return tuple(pool for pool in (self.entries, self.keys) if pool is not None)

    def arrays(self) -> dict[str, mx.array]:
        """What persists, as far as there is any: `window`, `open`, `entries`, `keys`."""
        found = {"window": self.window, "open": self.open_rows}
        for name, pool in (("entries", self.entries), ("keys", self.keys)):
            found[name] = None if pool is None else pool.rows()
        return {name: array for name, array in found.items() if array is not None}

    def fill(self, position: int, arrays: dict[str, mx.array]) -> None:
        """Stand at `position` with what `arrays` gave there."""
        self.position = position
        self.window, self.open_rows = arrays.get("window"), arrays.get("open")
        if self.entries is not None:
            self.entries = Entries.from_rows(arrays.get("entries"))
        if self.keys is not None:
            self.keys = Entries.from_rows(arrays.get("keys"))

    def fixed(self) -> tuple[mx.array, ...]:
        """The arrays that do not grow."""
        return tuple(array for array in (self.window, self.open_rows) if array is not None)

    @property
    def fixed_nbytes(self) -> int:
        """Bytes of the state that does not grow: what a snapshot costs."""
        return sum(array.nbytes for array in self.fixed())

    def evaluated(self) -> list[mx.array]:
        """Every array that must be evaluated for this state to exist."""
        buffers = (pool.buffer() for pool in self.pools())
        return [*self.fixed(), *(buffer for buffer in buffers if buffer is not None)]


def new_state(ratio: int, layout: EntryLayout, *, stored: bool = True) -> LayerState:
    """An empty timeline of a layer with this compress ratio."""
    new = Entries if stored else Unstored
    return LayerState(
        layout, stored, entries=new() if ratio else None, keys=new() if ratio == 4 else None
    )


def unstored(ratio: int) -> "LayerCache":
    """State for one call without a cache: all rows together from position 0, differentiable."""
    return LayerCache(ratio, PLAIN, [new_state(ratio, PLAIN, stored=False)], together=True)


KV_CHOICES = {"compact": COMPACT, "bf16": BF16}


def layout_for(official: bool, kv: str | None = None) -> EntryLayout:
    """The layout of `--kv`; both choices hold the official rounding exactly, plain values neither.

    UsageError for a choice that there is not, or for plain numerics with any.
    """
    if kv is not None and kv not in KV_CHOICES:
        raise UsageError(f"kv is {kv!r}, expected {' or '.join(KV_CHOICES)}.")
    if official:
        return KV_CHOICES[kv or "compact"]
    if kv is not None:
        raise UsageError(
            f"kv is {kv!r}, but plain numerics round nothing and keep entries in float32; leave kv "
            "out or use the official numerics."
        )
    return PLAIN


@dataclass
class LayerCache:
    """The timelines of one layer, one per batch row; mlx-lm's cache protocol."""

    ratio: int
    layout: EntryLayout
    rows: list[LayerState] = field(default_factory=list)
    together: bool = False  # one state for the whole batch: calls that keep no cache
    _skip: list[int] | None = None  # left padding still to come, per row
    _remaining: list[int] | None = None  # tokens still to come before right padding, per row

    def __post_init__(self) -> None:
        if not self.rows:
            self.rows = [new_state(self.ratio, self.layout)]

    def groups(self, batch: int, length: int) -> list[tuple[slice, slice, LayerState]]:
        """Which rows and which of `length` tokens belong to which state; consumes padding."""
        if self.together:
            return [(slice(0, batch), slice(0, length), self.rows[0])]
        if len(self.rows) == 1 and batch > 1 and self.empty():
            self.rows = [new_state(self.ratio, self.layout) for _ in range(batch)]
        if len(self.rows) != batch:
            raise CacheError(
                f"expected {len(self.rows)} rows of tokens, as this cache holds, but found "
                f"{batch}; build the batch with merge or extend"
            )
        spans = [self._span(row, length) for row in range(batch)]
        return [
            (slice(row, row + 1), span, state)
            for row, (span, state) in enumerate(zip(spans, self.rows, strict=True))
            if span.start < span.stop
        ]

    def _span(self, row: int, length: int) -> slice:
        start, stop = 0, length
        if self._skip:
            start = min(self._skip[row], length)
            self._skip[row] -= start
        if self._remaining:
            stop = min(length, start + self._remaining[row])
            self._remaining[row] -= stop - start
        return slice(start, stop)

    # mlx-lm's protocol

    @property
    def offset(self) -> int:
        """Tokens seen by the longest row."""
        return max(row.position for row in self.rows)

    def size(self) -> int:
        """Tokens seen, as mlx-lm asks."""
        return self.offset

    def empty(self) -> bool:
        """Whether no token was seen."""
        return self.offset == 0

    def is_trimmable(self) -> bool:
        """Never: closed windows cannot be reopened. Restore a snapshot instead."""
        return False

    def trim(self, n: int) -> int:
        """Refused; see `is_trimmable`."""
        raise CacheError(
            f"expected a snapshot to go back {n} tokens but found trim, which a compressed cache "
            "cannot do exactly; take a snapshot before and restore it"
        )

    def make_mask(self, *_: Any, **__: Any) -> None:
        """No mask: every layer knows what its queries see."""
        return None

    def prepare(
        self,
        *,
        lengths: Sequence[int] | None = None,
        left_padding: Sequence[int] | None = None,
        right_padding: Sequence[int] | None = None,
    ) -> None:
        """Announce padding of the calls to come; only `lengths` tokens of a row enter its state."""
        if left_padding is not None and max(left_padding) > 0:
            self._skip = [int(n) for n in left_padding]
        if lengths is not None and right_padding is not None and max(right_padding) > 0:
            self._remaining = [int(n) for n in lengths]

    def finalize(self) -> None:
        """The padded prompt is over; the next tokens are all real."""
        self._skip = self._remaining = None

    @classmethod
    def merge(cls, caches: Sequence["LayerCache"]) -> "LayerCache":
        """One cache whose rows are those of `caches`; the originals stay usable."""
        first = caches[0]
        return cls(first.ratio, first.layout, [r.view() for cache in caches for r in cache.rows])

    def filter(self, batch_indices: Any) -> None:
        """Keep these rows, in this order."""
        indices = batch_indices.tolist() if isinstance(batch_indices, mx.array) else batch_indices
        # A view each: the same row may be asked for twice.
        self.rows = [self.rows[int(i)].view() for i in indices]
        if self._skip:
            self._skip = [self._skip[int(i)] for i in indices]
        if self._remaining:
            self._remaining = [self._remaining[int(i)] for i in indices]

    def extend(self, other: "LayerCache") -> None:
        """Append the rows of `other`."""
        self.rows = [*self.rows, *(row.view() for row in other.rows)]

    def extract(self, index: int) -> "LayerCache":
        """One row as a cache of its own."""
        return LayerCache(self.ratio, self.layout, [self.rows[index].view()])

    def fork(self) -> "LayerCache":
        """The same timelines, continued independently."""
        return LayerCache(self.ratio, self.layout, [row.view() for row in self.rows])

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayerCache":
        return self.fork()

    @property
    def nbytes(self) -> int:
        """Bytes held: fixed state of every row and each shared pool once."""
        pools = {pool.pool_id: pool.nbytes for row in self.rows for pool in row.pools()}
        return sum(row.fixed_nbytes for row in self.rows) + sum(pools.values())

    @property
    def state(self) -> list[Any]:
        """Everything that persists, as a tree of arrays, numbers and names."""
        rows: list[Any] = [self.ratio, self.layout.name]
        for row in self.rows:
            pools = [pool.rows() for pool in row.pools()]
            rows.append([row.position, row.window, row.open_rows, *pools])
        return rows

    @state.setter
    def state(self, value: list[Any]) -> None:
        self.ratio, name, *rows = value
        self.layout = layout_named(name)
        self._skip = self._remaining = None
        self.rows = [_row_from_state(self.ratio, self.layout, row) for row in rows]

    @classmethod
    def from_state(cls, state: list[Any]) -> "LayerCache":
        """A cache from what `state` gave."""
        cache = cls.__new__(cls)
        cache.state = state
        return cache


def layout_named(name: str) -> EntryLayout:
    """The layout a cache file names; CacheError for one this version does not have."""
    if name not in LAYOUTS:
        raise CacheError(
            f"expected entries stored as {', '.join(LAYOUTS)} but found {name!r}; "
            "the file was written by another version, prefill the tokens again"
        )
    return LAYOUTS[name]


def _row_from_state(ratio: int, layout: EntryLayout, value: list[Any]) -> LayerState:
    state = new_state(ratio, layout)
    position, state.window, state.open_rows, *pools = value
    state.position = int(position)
    for pool, rows in zip(("entries", "keys"), pools, strict=False):
        setattr(state, pool, Entries.from_rows(rows))
    return state


# A whole model's cache is the list of its layers' caches.


@dataclass(frozen=True)
class Snapshot:
    """One moment of a timeline: per layer a count and the fixed-size state."""

    layers: tuple[tuple[LayerState, ...], ...]
    kinds: tuple[tuple[int, str], ...]  # compress ratio and layout of each layer
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the fixed-size state; the entries are shared with the timeline."""
        return sum(row.fixed_nbytes for rows in self.layers for row in rows)


def snapshot(cache: Sequence[LayerCache]) -> Snapshot:
    """Remember this moment of `cache`."""
    layers = tuple(tuple(row.view() for row in layer.rows) for layer in cache)
    kinds = tuple((layer.ratio, layer.layout.name) for layer in cache)
    return Snapshot(layers, kinds, cache[0].offset)


def restore(cache: Sequence[LayerCache], snapshot: Snapshot) -> None:
    """Put `cache` back to `snapshot`, which stays valid and may be restored again."""
    kinds = [(layer.ratio, layer.layout.name) for layer in cache]
    if kinds != list(snapshot.kinds):
        raise CacheError(
            f"expected a snapshot of {len(kinds)} layers like this cache's but found one of "
            f"{len(snapshot.kinds)} layers of another model; restore it where it was taken"
        )
    for layer, rows in zip(cache, snapshot.layers, strict=True):
        layer.rows = [row.view() for row in rows]
        layer.finalize()


def moment(
    cache: Sequence[LayerCache], offset: int, rings: Sequence[dict[str, mx.array]]
) -> Snapshot:
    """The moment of a single timeline after `offset` tokens, per layer with the rings it had then.

    Entries are those of `cache`: a closed window gives the same entry whatever follows.
    """
    rows = []
    for layer, held in zip(cache, rings, strict=True):
        row = replace(layer.rows[0].view(), position=offset)
        row.window, row.open_rows = held.get("window"), held.get("open")
        for pool in row.pools():
            pool.count = offset // layer.ratio
        rows.append((row,))
    kinds = tuple((layer.ratio, layer.layout.name) for layer in cache)
    return Snapshot(tuple(rows), kinds, offset)


def fork(cache: Sequence[LayerCache]) -> list[LayerCache]:
    """A second timeline that starts here; entries are shared until both of them append."""
    return [layer.fork() for layer in cache]


def evaluated(cache: Sequence[LayerCache]) -> list[Any]:
    """All arrays of `cache` that must be evaluated each step, so that no lazy chain grows."""
    return [a for layer in cache for row in layer.rows for a in row.evaluated()]


@dataclass(frozen=True)
class CacheBytes:
    """Bytes held: the state of fixed size, compressed entries, and index keys."""

    window: int = 0
    compressed: int = 0
    index: int = 0


def sizes(cache: Sequence[LayerCache]) -> CacheBytes:
    """The bytes of `cache` by its parts, spare rows of the pools included."""
    rows = [row for layer in cache for row in layer.rows]
    return CacheBytes(
        sum(row.fixed_nbytes for row in rows),
        sum(row.entries.nbytes for row in rows if row.entries is not None),
        sum(row.keys.nbytes for row in rows if row.keys is not None),
    )


def nbytes(cache: Sequence[LayerCache]) -> int:
    """Bytes held by the whole cache."""
    return sum(layer.nbytes for layer in cache)


def save(path: Any, cache: Sequence[LayerCache], **details: Any) -> None:
    """Write a single timeline to `path`; see `cache_file.save`."""
    from dsv4_mlx.cache_file import save as write

    write(path, cache, **details)


def load(
    path: Any, **details: Any
) -> tuple[list[LayerCache], list[int], dict[str, str], list[Snapshot]]:
    """Read a timeline back; see `cache_file.load`."""
    from dsv4_mlx.cache_file import load as read

    return read(path, **details)
