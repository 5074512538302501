"""Rows that were taken back were never there: every array, what follows, and everybody else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.cache.lockstep import lockstep_cache
from dsv4_mlx.cache.open_block import MOST_ROWS
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from tests.model import engrams, running

Cache = list[LayerCache]
CONFIG = engrams.CONFIG  # entries of 4 and of 128 tokens; queries select after 20
TOKENS = np.random.default_rng(7).integers(2, CONFIG["vocab_size"], 400)
PLACES = 300
"""Positions where blocks begin."""


@pytest.fixture(scope="module", params=[Numerics.PLAIN, Numerics.OFFICIAL], ids=lambda n: n.name)
def model(request: pytest.FixtureRequest) -> Model:
    return engrams.model(engrams.weights(), request.param)


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
        return np.random.default_rng(seed).integers(2, CONFIG["vocab_size"], self.rows)


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


# Where a text begins; where queries begin to select; where windows of 4 and of 128 close, before
# and after the rows that stay, read at once, row by row and mixed.
AT_EDGES = [
    Case(0, (3,), 1),
    Case(18, (1, 1, 1), 1),
    Case(125, (8,), 4),
    Case(126, (2, 1), 1),
]


def parts(case: Case) -> Iterator[np.ndarray]:
    yield from np.split(case.tokens(), np.cumsum(case.calls)[:-1])


def taken_back(model: Model, cache: Cache, case: Case) -> list[np.ndarray]:
    """Logits of every call of the block, which is committed."""
    caches.begin(cache)
    found = []
    for part in parts(case):
        logits = model(mx.array(part)[None], cache)
        mx.eval(logits, caches.evaluated(cache))
        found.append(np.array(logits))
    caches.commit(cache, case.keep)
    return found


def never_seen(model: Model, cache: Cache, case: Case) -> list[np.ndarray]:
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


def check(model: Model, chosen: list[Case], after: Callable[[int], int]) -> None:
    """Every case on a fork of one timeline that reads TOKENS, then some tokens one by one:
    `after` says how many by the number of the case."""
    trunk = model.make_cache()
    for number, case in enumerate(chosen):
        if trunk[0].offset < case.position:
            running.feed(model, trunk, [TOKENS[trunk[0].offset : case.position]])
        twin, ours, theirs = caches.fork(trunk), caches.fork(trunk), caches.fork(trunk)
        place, before = caches.snapshot(ours), arrays(trunk)
        for one, other in zip(
            taken_back(model, ours, case), never_seen(model, theirs, case), strict=False
        ):
            np.testing.assert_array_equal(one, other)
        assert_same(ours, theirs)
        for at in range(case.position, case.position + after(number)):
            token = mx.array(TOKENS[None, at : at + 1])
            np.testing.assert_array_equal(
                np.array(model(token, ours)), np.array(model(token, theirs))
            )
        assert_same(ours, theirs)
        caches.restore(ours, place)
        for (_, kept), (_, was), (_, other) in zip(before, arrays(ours), arrays(twin), strict=True):
            for name, array in kept.items():
                np.testing.assert_array_equal(was[name], array)
                np.testing.assert_array_equal(other[name], array)


def test_the_cases_lie_everywhere() -> None:
    chosen = cases(500, 0)
    assert {case.position % 128 for case in chosen} == set(range(128))
    assert {case.rows for case in chosen} == set(range(1, MOST_ROWS + 1))
    assert {case.keep for case in chosen} == set(range(MOST_ROWS + 1))
    assert any(case.position <= 20 < case.position + case.rows for case in chosen)
    assert any(len(case.calls) == 1 < case.rows for case in chosen)
    assert any(len(case.calls) == case.rows > 1 for case in chosen)


def test_rows_that_were_taken_back_were_never_there(model: Model) -> None:
    check(model, AT_EDGES, lambda number: 1)


@pytest.mark.slow
def test_of_500_blocks_no_row_taken_back_was_ever_there(model: Model) -> None:
    check(model, cases(500, 0), lambda number: 0 if number % 20 else 40)


def opened(model: Model, rows: int = 3) -> Cache:
    cache = model.make_cache()
    running.feed(model, cache, [TOKENS[:9]])
    caches.begin(cache)
    running.feed(model, cache, [TOKENS[9 : 9 + rows]])
    return cache


def addresses(cache: Cache) -> list[int]:
    """Where the rings and the pools lie in memory."""
    held = [array for layer in cache for array in layer.rows[0].evaluated()]
    mx.eval(held)
    return [np.array(a, copy=False).__array_interface__["data"][0] for a in held if a.shape[1] > 2]


@pytest.mark.parametrize("keep", [0, 1, 5, 8])
def test_rings_and_pools_stay_where_they_are(model: Model, keep: int) -> None:
    """Nothing is copied: the rows that stay are written into the memory that was there."""
    cache = model.make_cache()
    running.feed(model, cache, [TOKENS[:129]])
    before = addresses(cache)
    caches.begin(cache)
    logits = model(mx.array(TOKENS[None, 129:137]), cache)
    mx.eval(logits, caches.evaluated(cache))
    caches.commit(cache, keep)
    assert addresses(cache) == before


def test_an_open_block_is_refused_where_it_could_be_forgotten(model: Model, tmp_path) -> None:
    cache = opened(model)
    sentence = "expected a cache without an open block but found one of 3 rows; commit"
    tries = [
        lambda: caches.begin(cache),
        lambda: caches.snapshot(cache),
        lambda: caches.fork(cache),
        lambda: caches.mark(cache, [20]),
        lambda: cache[0].state,
        lambda: cache[0].merge([cache[0]]),
        lambda: cache[0].filter([0]),
        lambda: cache[0].extract(0),
        lambda: cache[0].extend(cache[1]),
        lambda: cache[0].prepare(left_padding=[1]),
        lambda: caches.save(tmp_path / "a", cache, fingerprint="f", tokens=[1] * 12),
    ]
    for attempt in tries:
        with pytest.raises(CacheError, match=sentence):
            attempt()
    assert caches.is_open(cache)
    caches.commit(cache, 2)
    assert cache[0].offset == 11 and not caches.is_open(cache)
    caches.snapshot(cache)


def test_more_rows_than_a_block_holds_are_refused_before_anything_moves(model: Model) -> None:
    cache = opened(model)
    with pytest.raises(CacheError, match="at most 8 rows in an open block but found 9; commit"):
        model(mx.array(TOKENS[None, 12:18]), cache)
    with pytest.raises(CacheError, match=r"expected to keep 0 to 3 rows, .* but found 4; keep"):
        caches.commit(cache, 4)
    with pytest.raises(CacheError, match=r"expected to keep 0 to 3 rows, .* but found -1; keep"):
        caches.commit(cache, -1)
    caches.commit(cache, 3)
    with pytest.raises(CacheError, match="expected an open block but found none; call begin"):
        caches.commit(cache, 0)
    plain = model.make_cache()
    running.feed(model, plain, [TOKENS[:9], TOKENS[9:12]])
    assert_same(cache, plain)


def test_a_batch_has_no_blocks(model: Model) -> None:
    batch = [a.merge([a, b]) for a, b in zip(model.make_cache(), model.make_cache(), strict=True)]
    with pytest.raises(CacheError, match="one timeline but found a batch of 2 rows or padding"):
        caches.begin(batch)
    empty = model.make_cache()
    caches.begin(empty)
    with pytest.raises(CacheError, match="expected 1 rows of tokens"):
        model(mx.array(TOKENS[None, :2].repeat(2, 0)), empty)


def test_rows_in_lockstep_are_taken_back_together(model: Model) -> None:
    tokens, caches_of_both = TOKENS[:20].reshape(2, 10), []
    for block in (True, False):
        cache = lockstep_cache(model.config, model.layout)
        model(mx.array(tokens[:, :7]), cache)
        if block:
            caches.begin(cache)
        else:
            caches.mark(cache, [8])
        model(mx.array(tokens[:, 7:]), cache)
        if block:
            with pytest.raises(CacheError, match="commit those to keep first"):
                cache[0].filter([1])
            caches.commit(cache, 1)
        else:
            caches.restore(cache, caches.marked(cache)[0])
        caches_of_both.append(cache)
    assert_same(*caches_of_both)


def test_going_back_gives_up_a_block(model: Model) -> None:
    cache = model.make_cache()
    running.feed(model, cache, [TOKENS[:9]])
    place, before = caches.snapshot(cache), arrays(cache)
    caches.begin(cache)
    running.feed(model, cache, [TOKENS[9:12]])
    caches.restore(cache, place)
    assert not caches.is_open(cache)
    for (at, found), (was, expected) in zip(arrays(cache), before, strict=True):
        assert at == was == 9
        assert all((found[name] == expected[name]).all() for name in expected)


def test_a_call_that_failed_half_way_is_taken_back(model: Model) -> None:
    cache = model.make_cache()
    running.feed(model, cache, [TOKENS[:11]])
    before = arrays(cache)
    caches.begin(cache)
    kept, model.layers[2].mlp = model.layers[2].mlp, None  # layers 0 to 2 have taken the rows
    try:
        with pytest.raises(AttributeError):
            model(mx.array(TOKENS[None, 11:16]), cache)
    finally:
        model.layers[2].mlp = kept
    caches.commit(cache, 0)
    for (at, found), (was, expected) in zip(arrays(cache), before, strict=True):
        assert at == was == 11
        assert all((found[name] == expected[name]).all() for name in expected)
