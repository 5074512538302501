"""The places of one timeline to which a session can return without reading a prompt again.

A place costs the fixed-size state of its snapshot (about 15 MiB for V4-Flash). When places
together exceed their budget, the oldest are forgotten: only their token count stays, and going
back there reads the prompt again from an earlier place or from the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class CacheSnapshot(Protocol):
    """A moment of a model's cache, as `dsv4_mlx.cache.snapshot` returns it."""

    @property
    def offset(self) -> int:
        """Tokens consumed."""
        ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Place:
    """A point of the timeline; `snapshot` is None once it was dropped for its bytes."""

    offset: int
    snapshot: CacheSnapshot | None

    @property
    def nbytes(self) -> int:
        return 0 if self.snapshot is None else self.snapshot.nbytes


class Places:
    """Places in the order of their offsets, with at most `budget_bytes` of snapshots.

    Beside them one moment is held for a while, such as the beginning of what is being read.
    """

    def __init__(self, budget_bytes: int):
        self.budget_bytes = budget_bytes
        self._places: list[Place] = []
        self._held: CacheSnapshot | None = None

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._places))

    @property
    def nbytes(self) -> int:
        return sum(place.nbytes for place in self._places)

    def has(self, offset: int) -> bool:
        """Whether there is a snapshot after exactly `offset` tokens."""
        return any(p.offset == offset and p.snapshot is not None for p in self._places)

    def add(self, snapshot: CacheSnapshot) -> None:
        """Remember a place of the current timeline; places at or after it are replaced."""
        kept = [place for place in self._places if place.offset < snapshot.offset]
        self._places = [*kept, Place(snapshot.offset, snapshot)]
        self._shrink()

    def nearest(self, offset: int) -> CacheSnapshot | None:
        """The latest snapshot at or before `offset`, None without one."""
        found = [p.snapshot for p in self._places if p.offset <= offset and p.snapshot is not None]
        latest = found[-1] if found else None
        held = self._held
        if held is None or held.offset > offset:
            return latest
        return latest if latest is not None and latest.offset >= held.offset else held

    def hold(self, snapshot: CacheSnapshot) -> None:
        """Hold this moment in the place of the one that was held."""
        self._held = snapshot

    def release(self) -> None:
        """Hold no moment any longer."""
        self._held = None

    def latest(self, budget_bytes: int) -> list[CacheSnapshot]:
        """The latest snapshots that fit into `budget_bytes`, in the order of their offsets."""
        chosen: list[CacheSnapshot] = []
        for place in reversed(self._places):
            budget_bytes -= place.nbytes
            if place.snapshot is None or budget_bytes < 0:
                break
            chosen.append(place.snapshot)
        return chosen[::-1]

    def drop_after(self, offset: int) -> None:
        """Forget the places after `offset`: the timeline no longer goes there."""
        self._places = [place for place in self._places if place.offset <= offset]
        if self._held is not None and self._held.offset > offset:
            self._held = None

    def copy(self) -> "Places":
        """Places of a fork: those of this timeline, which share their snapshots."""
        other = Places(self.budget_bytes)
        other._places = list(self._places)
        return other

    def _shrink(self) -> None:
        held = self.nbytes
        for index, place in enumerate(self._places):
            if held <= self.budget_bytes:
                return
            held -= place.nbytes
            self._places[index] = Place(place.offset, None)
