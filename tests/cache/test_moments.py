"""Moments inside of a call are those that calls ending there would have left."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerState
from dsv4_mlx.model.v4 import Model
from tests.model import running, small

CONFIG = small.config(
    num_hidden_layers=3, compress_ratios=[4, 128, 0, 0], sliding_window=6, index_topk=4
)
LENGTH = 200
TOKENS = small.TOKENS[:LENGTH]
CLOSE = 5e-5  # float32 sums of other shapes


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


def arrays(state: LayerState) -> list[np.ndarray]:
    held = [*state.fixed(), *(pool.rows() for pool in state.pools())]
    return [np.array(a) for a in held if a is not None]


# A window's edge, the edges of the compressors' windows, the last token but one.
OFFSETS = [1, 3, 4, 6, 7, 99, 100, 127, 128, 129, 131, 199]


@pytest.mark.parametrize("before", [0, 2, 97])
def test_a_moment_is_the_state_of_a_call_that_ends_there(model: Model, before: int) -> None:
    inside = [offset for offset in OFFSETS if offset > before]
    cache = model.make_cache()
    if before:
        running.feed(model, cache, [TOKENS[:before]])
    caches.mark(cache, inside)
    running.feed(model, cache, [TOKENS[before:]])
    moments = caches.marked(cache)
    assert [moment.offset for moment in moments] == inside
    assert caches.marked(cache) == []
    for moment in moments:
        fresh = model.make_cache()
        running.feed(model, fresh, [TOKENS[: moment.offset]])
        for (ours,), layer in zip(moment.layers, fresh, strict=True):
            assert ours.position == layer.rows[0].position == moment.offset
            for found, expected in zip(arrays(ours), arrays(layer.rows[0]), strict=True):
                np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("offset", [3, 128, 199])
def test_going_back_to_a_moment_reads_on_as_ever(model: Model, offset: int) -> None:
    cache, fresh = model.make_cache(), model.make_cache()
    caches.mark(cache, [offset])
    running.feed(model, cache, [TOKENS])
    (moment,) = caches.marked(cache)
    other = TOKENS[::-1][:90].copy()
    expected = running.feed(model, fresh, [TOKENS[:offset], other])[offset:]
    for _ in range(2):  # what is read on leaves the moment as it was
        caches.restore(cache, moment)
        found = running.feed(model, cache, [other])
        np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_moments_are_evaluated_with_the_state_and_count_once(model: Model) -> None:
    cache = model.make_cache()
    caches.mark(cache, [50, 60])
    model(mx.array(TOKENS)[None], cache)
    rings = sum(len(layer.rows[0].fixed()) for layer in cache)
    plain = model.make_cache()
    model(mx.array(TOKENS)[None], plain)
    assert len(caches.evaluated(cache)) == len(caches.evaluated(plain)) + 2 * rings
    first, second = caches.marked(cache)
    assert first.nbytes == second.nbytes == caches.snapshot(plain).nbytes
    assert len(caches.evaluated(cache)) == len(caches.evaluated(plain))


def test_a_view_remembers_nothing_of_a_call_to_come(model: Model) -> None:
    cache = model.make_cache()
    caches.mark(cache, [5])
    twin = caches.fork(cache)
    assert caches.marked(twin) == []
