"""What sessions do with timelines whose state lies on two ranks: the functions of a cache.

Rank 0 has the caches of its own layers; of the others it has numbers, and whatever happens to a
cache here happens to the worker's part of it before its next call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache import file, snapshots
from dsv4_mlx.cache.drafts import DraftState, TimelineCache, drafts_of, keep_drafts
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.pieces import CacheOutline, outline
from dsv4_mlx.cache.snapshots import CacheBytes, Snapshot
from dsv4_mlx.errors import CacheError
from dsv4_mlx.pipeline import states
from dsv4_mlx.pipeline.link import Coming, Held, Link
from dsv4_mlx.pipeline.messages import PipeOperation
from dsv4_mlx.pipeline.part import ModelPart


@dataclass(frozen=True)
class PipedSnapshot(Snapshot):
    """A moment of a timeline: rank 0's layers, and the number of the others'."""

    held: Held | None = None
    elsewhere: int = 0
    """Bytes of the worker's part."""

    @property
    def nbytes(self) -> int:
        """Bytes of the state of fixed size, of both ranks."""
        return super().nbytes + self.elsewhere


@dataclass
class CallAhead:
    """A call that the worker makes while rank 0 is busy with the one before."""

    ids: "np.ndarray[Any, Any]"
    inside: list[int]
    start: int
    before: Held
    """The worker's snapshot at `start`."""
    marked: list[Held]
    """Its snapshots inside of the call before."""
    coming: Coming


class PipedCache(TimelineCache):
    """Rank 0's layers of one cache, and the number of the worker's."""

    def __init__(self, layers: Iterable[LayerCache], held: Held) -> None:
        super().__init__(layers)
        self.held = held
        self.marks: list[int] = []
        """What the worker was asked to remember of the next call, or of the one just made."""
        self.following: tuple[np.ndarray[Any, Any], list[int]] | None = None
        """Ids [1, S] of the call after the next, and the moments inside of it."""
        self.ahead: CallAhead | None = None


class PipedCaches:
    """The functions of `dsv4_mlx.cache` for a model on two ranks."""

    def __init__(self, part: ModelPart, link: Link) -> None:
        self._part, self._link = part, link
        self._others = range(part.own.start)
        self._elsewhere = states.fixed_bytes(part.config, part.layout, self._others)

    def new(self) -> PipedCache:
        """An empty cache."""
        cache = PipedCache(self._part.make_cache(), self._link.held())
        self._link.tell(PipeOperation.NEW, cache.held.number)
        return cache

    def settle(self, cache: PipedCache) -> None:
        """Take back a call that was made ahead."""
        ahead, cache.ahead = cache.ahead, None
        if ahead is not None:
            self._link.forget(ahead.coming)
            self._link.tell(PipeOperation.RESTORE, cache.held.number, ahead.before.number)
            cache.marks = []

    def snapshot(self, cache: PipedCache) -> PipedSnapshot:
        """Remember this moment of `cache`."""
        ahead = cache.ahead
        if ahead is not None and ahead.start == cache[0].offset:
            held = ahead.before
        else:
            self.settle(cache)
            held = self._link.held()
            self._link.tell(PipeOperation.SNAPSHOT, cache.held.number, held.number)
        return self._piped(snapshots.snapshot(cache), held)

    def restore(self, cache: PipedCache, snapshot: PipedSnapshot) -> None:
        """Put `cache` back to `snapshot`."""
        self.settle(cache)
        cache.following = None
        snapshots.restore(cache, snapshot)
        assert snapshot.held is not None
        self._link.tell(PipeOperation.RESTORE, cache.held.number, snapshot.held.number)
        cache.marks = []

    def mark(self, cache: PipedCache, offsets: Iterable[int]) -> None:
        """Let the next call remember the moments after `offsets` tokens, each inside of it."""
        wanted = sorted(offsets)
        snapshots.mark(cache, wanted)
        if cache.ahead is not None and cache.ahead.inside == wanted:
            return
        self.settle(cache)
        if wanted or cache.marks:
            self._link.tell(PipeOperation.MARK, cache.held.number, ids=wanted)
        cache.marks = wanted

    def marked(self, cache: PipedCache) -> list[PipedSnapshot]:
        """The moments that `mark` asked for."""
        here = snapshots.marked(cache)
        if cache.ahead is not None:
            held, cache.ahead.marked = cache.ahead.marked, []
        else:
            held = self.remembered(cache)
        return [self._piped(*pair) for pair in zip(here, held, strict=True)]

    def remembered(self, cache: PipedCache) -> list[Held]:
        """Let the worker take the snapshots of the marks that its last call passed."""
        held = [self._link.held() for _ in cache.marks]
        if held:
            numbers = [one.number for one in held]
            self._link.tell(PipeOperation.MARKED, cache.held.number, ids=numbers)
        cache.marks = []
        return held

    def fork(self, cache: PipedCache) -> PipedCache:
        """A second timeline that starts here."""
        self.settle(cache)
        forked = PipedCache(snapshots.fork(cache), self._link.held())
        forked.drafts = drafts_of(cache)
        self._link.tell(PipeOperation.FORK, cache.held.number, forked.held.number)
        return forked

    def begin(self, cache: PipedCache) -> NoReturn:
        """Refused: drafts are off where layers are piped."""
        raise CacheError(
            "expected rows that stay but found a block that may be taken back, which layers on two "
            "machines do not have; read without drafts."
        )

    def commit(self, cache: PipedCache, keep: int) -> NoReturn:
        """Refused as `begin` is."""
        self.begin(cache)

    def drafts_of(self, cache: PipedCache) -> DraftState | None:
        """What a drafter knew: nothing."""
        return drafts_of(cache)

    def keep_drafts(
        self,
        cache: PipedCache,
        state: DraftState | None,
        moments: Mapping[int, DraftState] | None = None,
    ) -> None:
        """Let the timeline have this state."""
        keep_drafts(cache, state, moments)

    def evaluated(self, cache: PipedCache) -> list[mx.array]:
        """Every array of rank 0's; the worker evaluates its own with each call."""
        return snapshots.evaluated(cache)

    def sizes(self, cache: PipedCache) -> CacheBytes:
        """The bytes of `cache` on both ranks."""
        self.settle(cache)
        here, there = snapshots.sizes(cache), self._link.sizes(cache.held)
        return CacheBytes(
            here.window + there.window,
            here.compressed + there.compressed,
            here.index + there.index,
        )

    def save(
        self,
        path: str | Path,
        cache: PipedCache,
        *,
        fingerprint: str,
        tokens: Sequence[int],
        notes: Mapping[str, str] | None = None,
        places: Sequence[PipedSnapshot] = (),
        beside: Mapping[str, mx.array] | None = None,
        parent: str = "",
        since: int = 0,
    ) -> None:
        """Write both ranks' state to one file, which a model on one machine opens as well."""
        self.settle(cache)
        held = [place.held for place in places if place.held is not None]
        arrays = self._link.gathered(cache.held, held)
        others = self._layers(self._others)
        states.filled(others, self._others, cache[0].offset, arrays)
        file.save(
            path,
            [*others, *cache],
            fingerprint=fingerprint,
            tokens=tokens,
            notes=notes,
            places=[self._whole(place, others, arrays) for place in places],
            beside=beside,
            parent=parent,
            since=since,
        )

    def outline(self, path: str | Path) -> CacheOutline:
        """What a file holds, without reading its states."""
        return outline(path)

    def compacted(self, moments: Sequence[PipedSnapshot]) -> list[PipedSnapshot]:
        """Moments of one timeline that hold no more entries than the last of them sees."""
        numbers = [one.held.number for one in moments if one.held is not None]
        if numbers:
            self._link.tell(PipeOperation.COMPACT, ids=numbers)
        here: Any = snapshots.compacted(moments)
        return list(here)

    def load(
        self, path: str | Path, *, model: file.CachedModel, fingerprint: str
    ) -> tuple[PipedCache, list[int], dict[str, str], dict[str, mx.array], Sequence[PipedSnapshot]]:
        """Cache, tokens, notes, arrays beside and places of a file of one machine or of two."""
        whole, tokens, notes, beside, found = file.load(path, model=model, fingerprint=fingerprint)
        end = self._others.stop
        cache = PipedCache(whole[end:], self._link.held())
        arrays = states.arrays_of(whole[:end], self._others)
        places = []
        for place in found:
            there = Snapshot(place.layers[:end], place.kinds[:end], place.offset)
            arrays |= states.rings_of(there, self._others)
            here = Snapshot(place.layers[end:], place.kinds[end:], place.offset)
            places.append(self._piped(here, self._link.held()))
        numbers = {place.offset: place.held for place in places if place.held is not None}
        self._link.fill(cache.held, len(tokens), numbers, arrays)
        return cache, tokens, notes, beside, places

    def merge(self, given: Sequence[PipedCache]) -> PipedCache:
        """One cache whose rows are those of `given`, which stay usable."""
        for cache in given:
            self.settle(cache)
        layers = [LayerCache.merge(rows) for rows in zip(*given, strict=True)]
        merged = PipedCache(layers, self._link.held())
        numbers = [cache.held.number for cache in given]
        self._link.tell(PipeOperation.MERGE, merged.held.number, ids=numbers)
        return merged

    def extract(self, cache: PipedCache, row: int) -> PipedCache:
        """One row of a batch as a cache of its own."""
        one = PipedCache([layer.extract(row) for layer in cache], self._link.held())
        self._link.tell(PipeOperation.EXTRACT, cache.held.number, row, one.held.number)
        return one

    def prepare(
        self, cache: PipedCache, lengths: Sequence[int], *, left: bool, padded: int
    ) -> None:
        """Announce rows of `lengths` tokens, `padded` to one length on the `left` or the right."""
        padding, none = [padded - length for length in lengths], [0] * len(lengths)
        before, after = (padding, none) if left else (none, padding)
        for layer in cache:
            layer.prepare(left_padding=before, lengths=lengths, right_padding=after)
        numbers = [*before, *lengths, *after]
        self._link.tell(PipeOperation.PREPARE, cache.held.number, len(lengths), ids=numbers)

    def finalize(self, cache: PipedCache) -> None:
        """The padded prompt is over."""
        for layer in cache:
            layer.finalize()
        self._link.tell(PipeOperation.FINALIZE, cache.held.number)

    def _piped(self, moment: Snapshot, held: Held) -> PipedSnapshot:
        return PipedSnapshot(
            moment.layers, moment.kinds, moment.offset, moment.drafts, held, self._elsewhere
        )

    def _whole(
        self, place: PipedSnapshot, others: Sequence[LayerCache], arrays: Mapping[str, mx.array]
    ) -> Snapshot:
        """A place with both ranks' layers."""
        there = states.place_of(others, self._others, place.offset, arrays)
        return Snapshot((*there.layers, *place.layers), (*there.kinds, *place.kinds), place.offset)

    def _layers(self, numbers: range) -> list[LayerCache]:
        roles = self._part.config.layer_roles
        return [LayerCache(roles[number], self._part.layout) for number in numbers]
