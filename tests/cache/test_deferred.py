"""Rows that were taken back were never there: every array, what follows, and everybody else."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache.lockstep import lockstep_cache
from dsv4_mlx.cache.open_block import MOST_ROWS
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from tests.cache.taken_back import (
    TOKENS,
    VOCABULARY,
    Cache,
    Case,
    arrays,
    assert_same,
    cases,
    check,
)
from tests.model import engrams, running

CONFIG = engrams.CONFIG  # entries of 4 and of 128 tokens; queries select after 20
LEAN = CONFIG | {
    "hc_mult": 2,
    "hc_sinkhorn_iters": 1,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "num_attention_heads": 2,
}
"""The same layers with less to compute in each."""


@pytest.fixture(scope="module", params=[Numerics.PLAIN, Numerics.OFFICIAL], ids=lambda n: n.name)
def model(request: pytest.FixtureRequest) -> Model:
    return engrams.model(engrams.weights(), request.param)


# Where a text begins; where queries begin to select; where windows of 4 and of 128 close, before
# and after the rows that stay, read at once, row by row and mixed.
AT_EDGES = [
    Case(0, (3,), 1),
    Case(18, (1, 1, 1), 1),
    Case(125, (8,), 4),
    Case(126, (2, 1), 1),
]


def test_the_cases_lie_everywhere() -> None:
    assert CONFIG["vocab_size"] == VOCABULARY
    chosen = cases(500, 0)
    assert {case.position % 128 for case in chosen} == set(range(128))
    assert {case.rows for case in chosen} == set(range(1, MOST_ROWS + 1))
    assert {case.keep for case in chosen} == set(range(MOST_ROWS + 1))
    assert any(case.position <= 20 < case.position + case.rows for case in chosen)
    assert any(len(case.calls) == 1 < case.rows for case in chosen)
    assert any(len(case.calls) == case.rows > 1 for case in chosen)


def test_rows_that_were_taken_back_were_never_there(model: Model) -> None:
    check(model, AT_EDGES, after=1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "part",
    [pytest.param(0, marks=pytest.mark.slow)]
    + [pytest.param(part, marks=pytest.mark.soak) for part in (1, 2, 3, 4)],
)
def test_of_500_blocks_no_row_taken_back_was_ever_there(part: int) -> None:
    """Half of them in either numerics; 40 tokens are read after each."""
    for number, numerics in enumerate((Numerics.PLAIN, Numerics.OFFICIAL)):
        lean = engrams.model(engrams.weights(settings=LEAN), numerics, LEAN)
        check(lean, cases(500, 0)[part::5][number::2], alone=5)


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
