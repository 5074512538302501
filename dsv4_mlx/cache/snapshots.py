"""A whole model's cache is the list of its layers' caches: its moments, its forks, its bytes.

A snapshot is a count and the fixed-size state, `restore` moves the count back, and a fork shares
the entries until both timelines go on.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from dsv4_mlx.cache.drafts import DraftState, TimelineCache, drafts_of
from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.errors import CacheError


@dataclass(frozen=True)
class Snapshot:
    """One moment of a timeline: per layer a count and the fixed-size state."""

    layers: tuple[tuple[LayerState, ...], ...]
    kinds: tuple[tuple[int, str], ...]  # compress ratio and layout of each layer
    offset: int
    drafts: DraftState | None = None
    """What a drafter knew of it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the fixed-size state; the entries are shared with the timeline."""
        drafts = 0 if self.drafts is None else self.drafts.nbytes
        return drafts + sum(row.fixed_nbytes for rows in self.layers for row in rows)


def snapshot(cache: Sequence[LayerCache]) -> Snapshot:
    """Remember this moment of `cache`."""
    layers = tuple(tuple(row.view() for row in layer.rows) for layer in cache)
    kinds = tuple((layer.role.ratio, layer.layout.name) for layer in cache)
    return Snapshot(layers, kinds, cache[0].offset, drafts_of(cache))


def restore(cache: Sequence[LayerCache], snapshot: Snapshot) -> None:
    """Put `cache` back to `snapshot`, which stays valid and may be restored again.

    An open block is given up with all of its rows.
    """
    kinds = [(layer.role.ratio, layer.layout.name) for layer in cache]
    if kinds != list(snapshot.kinds):
        raise CacheError(
            f"expected a snapshot of {len(kinds)} layers like this cache's but found one of "
            f"{len(snapshot.kinds)} layers of another model; restore it where it was taken."
        )
    for layer, rows in zip(cache, snapshot.layers, strict=True):
        layer.rows = [row.view() for row in rows]
        layer.finalize()
    if isinstance(cache, TimelineCache):
        cache.drafts, cache.draft_moments = snapshot.drafts, {}


def mark(cache: Sequence[LayerCache], offsets: Iterable[int]) -> None:
    """Let the next call remember the moments after `offsets` tokens, each inside of it.

    `cache` has one timeline. No chunk of a prompt has to end where somebody may want to return to.
    """
    for layer in cache:
        (row,) = layer.rows
        row.check_closed()
        row.moments = {offset: {} for offset in offsets}
    if isinstance(cache, TimelineCache):
        cache.draft_moments = {}


def marked(cache: Sequence[LayerCache]) -> list[Snapshot]:
    """The moments that `mark` asked for, in the order of their offsets; they are forgotten here."""
    moments = [layer.rows[0].moments for layer in cache]
    drafts = cache.draft_moments if isinstance(cache, TimelineCache) else {}
    mark(cache, ())
    return [
        snapshot_at(cache, at, [one[at] for one in moments], drafts.get(at))
        for at in sorted(moments[0])
    ]


def snapshot_at(
    cache: Sequence[LayerCache],
    offset: int,
    rings: Sequence[dict[str, mx.array]],
    drafts: DraftState | None = None,
) -> Snapshot:
    """The moment of a single timeline after `offset` tokens, per layer with the rings it had then.

    Entries are those of `cache`: a closed window gives the same entry whatever follows.
    """
    rows = []
    for layer, held in zip(cache, rings, strict=True):
        row = replace(layer.rows[0].view(), position=offset)
        row.window, row.open_rows = held.get("window"), held.get("open")
        row.ids = held.get("ids")
        for pool in row.pools():
            pool.count = offset // layer.role.ratio
        rows.append((row,))
    kinds = tuple((layer.role.ratio, layer.layout.name) for layer in cache)
    return Snapshot(tuple(rows), kinds, offset, drafts)


def compacted(moments: Sequence[Snapshot]) -> list[Snapshot]:
    """Moments of one timeline with entries of their own, no more of them than the last one sees.

    What they shared with timelines that went further is then held by those alone.
    """
    if not moments:
        return []
    last = max(moments, key=lambda moment: moment.offset)
    whole = [_own(row) for (row,) in last.layers]
    mx.eval(
        [buffer for row in whole for pool in row.pools() if (buffer := pool.buffer()) is not None]
    )
    return [
        replace(
            moment,
            layers=tuple(
                (_seeing(row, own),) for (row,), own in zip(moment.layers, whole, strict=True)
            ),
        )
        for moment in moments
    ]


def _own(row: LayerState) -> LayerState:
    """The same state with entries that nobody else has."""
    entries, keys = (
        None if pool is None else Entries.from_rows(pool.rows()) for pool in (row.entries, row.keys)
    )
    return replace(row, entries=entries, keys=keys)


def _seeing(row: LayerState, other: LayerState) -> LayerState:
    """`row` with as many of the entries of `other` as it sees of its own."""
    view = other.view()
    for mine, theirs in zip(row.pools(), view.pools(), strict=True):
        theirs.count = mine.count
    return replace(row, entries=view.entries, keys=view.keys)


def fork(cache: Sequence[LayerCache]) -> list[LayerCache]:
    """A second timeline that starts here; entries are shared until both of them append."""
    forked = TimelineCache(layer.fork() for layer in cache)
    forked.drafts = drafts_of(cache)
    return forked


def evaluated(cache: Sequence[LayerCache]) -> list[mx.array]:
    """All arrays of `cache` that must be evaluated each step, so that no lazy chain grows."""
    drafted = cache.drafted() if isinstance(cache, TimelineCache) else []
    return [*(a for layer in cache for row in layer.rows for a in row.evaluated()), *drafted]


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
        sum(row.fixed_nbytes for row in rows) + _drafts_nbytes(cache),
        sum(row.entries.nbytes for row in rows if row.entries is not None),
        sum(row.keys.nbytes for row in rows if row.keys is not None),
    )


def nbytes(cache: Sequence[LayerCache]) -> int:
    """Bytes held by the whole cache."""
    return sum(layer.nbytes for layer in cache) + _drafts_nbytes(cache)


def _drafts_nbytes(cache: Sequence[LayerCache]) -> int:
    drafts = drafts_of(cache)
    return 0 if drafts is None else drafts.nbytes
