"""Snapshots, forks and batches: any history of a timeline equals its straight run, bit for bit."""

import copy
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, rule

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache, Snapshot
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.v4 import Model
from tests.model import running, small

CONFIG = small.config(
    num_hidden_layers=3, compress_ratios=[4, 128, 0, 0], sliding_window=6, index_topk=4
)
Cache = list[LayerCache]


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


def chunk(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, size]).integers(0, CONFIG["vocab_size"], size)


class Straight:
    """Logits after a path of chunks, each path run once from its parent and never rewound."""

    def __init__(self) -> None:
        self.model = small.model(CONFIG, small.weights(CONFIG))
        self.known: dict[tuple, np.ndarray] = {}

    def last_logits(self, path: tuple[tuple[int, int], ...]) -> np.ndarray:
        if path not in self.known:
            parts = [chunk(*step) for step in path]
            self.known[path] = running.feed(self.model, self.model.make_cache(), parts)[-1]
        return self.known[path]


STRAIGHT: list[Straight] = []  # made by the first run: nothing is built while tests are collected


class Timelines(RuleBasedStateMachine):
    """Timelines that append, remember, go back and fork in any order; a path is its chunks."""

    lines = Bundle("lines")
    moments = Bundle("moments")

    def __init__(self) -> None:
        super().__init__()
        if not STRAIGHT:
            STRAIGHT.append(Straight())
        self.straight = STRAIGHT[0]

    @initialize(target=lines)
    def start(self) -> dict[str, Any]:
        return {"cache": self.straight.model.make_cache(), "path": ()}

    @rule(line=lines, seed=st.integers(0, 2), size=st.sampled_from([1, 2, 3, 5, 30, 127]))
    def append(self, line: dict[str, Any], seed: int, size: int) -> None:
        line["path"] += ((seed, size),)
        logits = running.feed(self.straight.model, line["cache"], [chunk(seed, size)])[-1]
        np.testing.assert_array_equal(logits, self.straight.last_logits(line["path"]))

    @rule(target=moments, line=lines)
    def remember(self, line: dict[str, Any]) -> tuple[Snapshot, tuple]:
        moment = caches.snapshot(line["cache"])
        assert moment.offset == sum(size for _, size in line["path"])
        return moment, line["path"]

    @rule(line=lines, moment=moments)
    def go_back(self, line: dict[str, Any], moment: tuple[Snapshot, tuple]) -> None:
        """Also onto a moment of another timeline, older or newer than this one."""
        caches.restore(line["cache"], moment[0])
        line["path"] = moment[1]

    @rule(moment=consumes(moments))
    def forget(self, moment: tuple[Snapshot, tuple]) -> None:
        pass

    @rule(target=lines, line=lines, copied=st.booleans())
    def fork(self, line: dict[str, Any], copied: bool) -> dict[str, Any]:
        other = copy.deepcopy(line["cache"]) if copied else caches.fork(line["cache"])
        return {"cache": other, "path": line["path"]}


Timelines.TestCase.settings = settings(max_examples=8, stateful_step_count=16)


class TestTimelines(Timelines.TestCase):  # type: ignore[valid-type]
    """Runs the machine."""


@pytest.mark.slow
class TestMoreTimelines(Timelines.TestCase):  # type: ignore[valid-type]
    """Runs it longer."""

    settings = settings(max_examples=20, stateful_step_count=30)


# --- Snapshots, one by one ------------------------------------------------------------------------


def grown(model: Model, tokens: int) -> Cache:
    cache = model.make_cache()
    running.feed(model, cache, [chunk(9, tokens)])
    return cache


def test_a_snapshot_survives_everything_in_between(model: Model) -> None:
    cache = grown(model, 130)
    old = caches.snapshot(cache)
    first = running.feed(model, cache, [chunk(1, 40)])
    new = caches.snapshot(cache)
    then = running.feed(model, cache, [chunk(2, 20)])
    caches.restore(cache, old)
    running.feed(model, cache, [chunk(3, 90)])
    caches.restore(cache, new)
    np.testing.assert_array_equal(running.feed(model, cache, [chunk(2, 20)]), then)
    caches.restore(cache, old)
    np.testing.assert_array_equal(running.feed(model, cache, [chunk(1, 40)]), first)


def test_a_snapshot_of_another_model_is_refused(model: Model) -> None:
    cache = grown(model, 5)
    with pytest.raises(CacheError, match="a snapshot of 2 layers"):
        caches.restore(cache[:2], caches.snapshot(cache))


def test_forks_are_independent(model: Model) -> None:
    cache = grown(model, 130)
    twin = caches.fork(cache)
    expected = [running.feed(model, grown(model, 130), [chunk(n, 30)]) for n in (1, 2)]
    np.testing.assert_array_equal(running.feed(model, cache, [chunk(1, 30)]), expected[0])
    np.testing.assert_array_equal(running.feed(model, twin, [chunk(2, 30)]), expected[1])


def test_trim_is_refused(model: Model) -> None:
    layer = grown(model, 5)[0]
    assert not layer.is_trimmable()
    with pytest.raises(CacheError, match="take a snapshot before and restore it"):
        layer.trim(1)


# --- Batches --------------------------------------------------------------------------------------

LENGTHS = (3, 130, 67)


def merged(singles: list[Cache]) -> Cache:
    return [LayerCache.merge(layers) for layers in zip(*singles, strict=True)]


def step(model: Model, cache: Cache, tokens: list[int]) -> np.ndarray:
    """Logits [B, V] of one more token per row."""
    return np.array(model(mx.array(tokens)[:, None], cache)[:, 0])


@pytest.fixture
def singles(model: Model) -> list[Cache]:
    return [grown(model, length) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(model: Model) -> np.ndarray:
    """Logits [3, V] of token 7 after each of the single timelines."""
    return np.stack([step(model, grown(model, n), [7])[0] for n in LENGTHS])


def assert_close(ours: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)


def test_merged_timelines_run_side_by_side_and_stay_usable(
    model: Model, singles: list[Cache], expected: np.ndarray
) -> None:
    batch = merged(singles)
    assert batch[0].offset == max(LENGTHS)
    assert_close(step(model, batch, [7, 7, 7]), expected)
    for single, row in zip(singles, expected, strict=True):
        assert_close(step(model, single, [7])[0], row)


def test_filtering_keeps_the_rows_in_the_order_asked_for(
    model: Model, singles: list[Cache], expected: np.ndarray
) -> None:
    batch = merged(singles)
    for layer in batch:
        layer.filter(mx.array([2, 0]))
    assert_close(step(model, batch, [7, 7]), expected[[2, 0]])


def test_extending_appends_the_rows(
    model: Model, singles: list[Cache], expected: np.ndarray
) -> None:
    batch = merged(singles[:1])
    for layer, other in zip(batch, merged(singles[1:]), strict=True):
        layer.extend(other)
    assert_close(step(model, batch, [7, 7, 7]), expected)


def test_an_extracted_row_is_a_timeline_of_its_own(
    model: Model, singles: list[Cache], expected: np.ndarray
) -> None:
    batch = merged(singles)
    alone = [layer.extract(1) for layer in batch]
    step(model, batch, [5, 5, 5])
    assert_close(step(model, alone, [7]), expected[1:2])


def test_another_number_of_rows_is_refused(model: Model, singles: list[Cache]) -> None:
    with pytest.raises(CacheError, match=r"expected 3 rows of tokens.*but found 2"):
        step(model, merged(singles), [7, 7])


def test_mlx_lms_state_gives_the_cache_back(model: Model) -> None:
    cache = grown(model, 131)
    twin = [LayerCache.from_state(layer.state) for layer in cache]
    np.testing.assert_array_equal(step(model, twin, [7]), step(model, cache, [7]))


def test_compacted_moments_hold_what_they_see_and_continue_bit_for_bit(model: Model) -> None:
    cache, moments = model.make_cache(), []
    for start, stop in ((0, 5), (5, 66), (66, 128)):
        running.feed(model, cache, [small.TOKENS[start:stop]])
        moments.append(caches.snapshot(cache))
    compact = caches.compacted(moments[:2])
    pools = [pool for (row,) in compact[1].layers for pool in row.pools()]
    assert all(buffer.shape[1] == 256 for pool in pools if (buffer := pool.buffer()) is not None)
    ids = {pool.pool_id for (row,) in moments[1].layers for pool in row.pools()}
    assert ids.isdisjoint(pool.pool_id for pool in pools)
    assert caches.compacted([]) == []
    for one, other in zip(moments[:2], compact, strict=True):
        caches.restore(cache, one)
        kept = running.feed(model, cache, [small.TOKENS[:40]])
        caches.restore(cache, other)
        np.testing.assert_array_equal(running.feed(model, cache, [small.TOKENS[:40]]), kept)
