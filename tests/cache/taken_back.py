"""Blocks of rows that are taken back, and the timelines that never saw them, laid side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.cache.open_block import MOST_ROWS

Cache = list[LayerCache]
VOCABULARY = 96
TOKENS = np.random.default_rng(7).integers(2, VOCABULARY, 400)
AFTER = 40
"""Tokens that are read after a block."""
PLACES = 300
"""Positions where blocks begin."""


@dataclass(frozen=True)
class Case:
    """A block at a position, in calls of these sizes, of which the first rows are kept."""

    position: int
    calls: tuple[int, ...]
    keep: int

    @property
    def rows(self) -> int:
        return sum(self.calls)

    def tokens(self) -> np.ndarray:
        """Drafts that the text of TOKENS does not go on with."""
        seed = [self.position, self.rows, self.keep]
        return np.random.default_rng(seed).integers(2, VOCABULARY, self.rows)


def cases(count: int, seed: int) -> list[Case]:
    """Random blocks in the order of their positions; every phase mod 128 before any twice."""
    random = np.random.default_rng(seed)
    found = []
    for place in np.concatenate([random.permutation(PLACES) for _ in range(-(-count // PLACES))]):
        rows = int(random.integers(1, MOST_ROWS + 1))
        cuts = np.flatnonzero(random.random(rows - 1) < random.choice([0.0, 0.4, 1.0])) + 1
        calls = tuple(int(n) for n in np.diff([0, *cuts, rows]))
        found.append(Case(int(place), calls, int(random.integers(0, rows + 1))))
    return sorted(found[:count], key=lambda case: case.position)


def parts(case: Case) -> Iterator[np.ndarray]:
    yield from np.split(case.tokens(), np.cumsum(case.calls)[:-1])


class Reader(Protocol):
    """A model, or a part that keeps rows of what it is given as one."""

    def make_cache(self) -> Cache: ...

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        """Token ids [B, S] -> what comes of them."""
        ...


def taken_back(model: Reader, cache: Cache, case: Case) -> list[np.ndarray]:
    """Logits of every call of the block, which is committed."""
    caches.begin(cache)
    found = []
    for part in parts(case):
        logits = model(mx.array(part)[None], cache)
        mx.eval(logits, caches.evaluated(cache))
        found.append(np.array(logits))
    caches.commit(cache, case.keep)
    return found


def never_seen(model: Reader, cache: Cache, case: Case) -> list[np.ndarray]:
    """The same where no row after those to keep ever reached the timeline.

    The call in which the last of them lies is of the same shape, so that its sums are; the
    timeline is the moment inside of it, which `mark` gives.
    """
    found, left = [], case.keep
    for part in parts(case):
        if left <= 0:
            break
        offset = cache[0].offset + left
        if left < len(part):
            caches.mark(cache, [offset])
        logits = model(mx.array(part)[None], cache)
        mx.eval(logits, caches.evaluated(cache))
        found.append(np.array(logits))
        if left < len(part):
            (moment,) = caches.marked(cache)
            caches.restore(cache, moment)
        left -= len(part)
    return found


def arrays(cache: Cache) -> list[tuple[int, dict[str, np.ndarray]]]:
    states = [layer.rows[0] for layer in cache]
    return [(s.position, {k: np.array(a) for k, a in s.arrays().items()}) for s in states]


def assert_same(found: Cache, expected: Cache) -> None:
    for (place, ours), (other, theirs) in zip(arrays(found), arrays(expected), strict=True):
        assert (place, ours.keys()) == (other, theirs.keys())
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def check(model: Reader, chosen: list[Case], after: int = AFTER, alone: int = 1) -> None:
    """Every case on a fork of one timeline that reads TOKENS, and `after` tokens of these later.

    Those are read one by one after one case of `alone`, and eight at a time after the others.
    """
    trunk = model.make_cache()
    for number, case in enumerate(chosen):
        if trunk[0].offset < case.position:
            model(mx.array(TOKENS[None, trunk[0].offset : case.position]), trunk)
            mx.eval(caches.evaluated(trunk))
        twin, ours, theirs = caches.fork(trunk), caches.fork(trunk), caches.fork(trunk)
        place, before = caches.snapshot(ours), arrays(trunk)
        for one, other in zip(
            taken_back(model, ours, case), never_seen(model, theirs, case), strict=False
        ):
            np.testing.assert_array_equal(one, other)
        assert_same(ours, theirs)
        step = 8 if number % alone else 1
        for at in range(case.position, case.position + after, step):
            tokens = mx.array(TOKENS[None, at : at + step])
            one, other = model(tokens, ours), model(tokens, theirs)
            mx.eval(one, other, caches.evaluated(ours), caches.evaluated(theirs))
            np.testing.assert_array_equal(np.array(one), np.array(other))
        assert_same(ours, theirs)
        caches.restore(ours, place)
        for (_, kept), (_, was), (_, other) in zip(before, arrays(ours), arrays(twin), strict=True):
            for name, array in kept.items():
                np.testing.assert_array_equal(was[name], array)
                np.testing.assert_array_equal(other[name], array)
