"""A million tokens on `LONG`: real entries first, generated ones after them."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import context
from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.sizing.costs import Costs
from dsv4_mlx.testing.checkpoints import LONG
from dsv4_mlx.testing.long_context import stretched

MILLION = 1 << 20
MOST_BESIDE_THE_CACHE = 256 << 20
"""Bytes of working space that a chunk of a prompt may take, however long the context."""


def timeline(tokens: int) -> context.Timeline:
    model = context.load_synthetic(LONG, "cpu")
    prompt = np.random.default_rng(0).integers(3, LONG.vocab_size, tokens, dtype=np.int32)
    return context.Timeline(model, model.make_cache(), prompt)


def entries(cache: Sequence[LayerCache]) -> list[np.ndarray]:
    """The stored rows of every pool."""
    return [np.array(pool.rows()) for layer in cache for pool in layer.rows[0].pools()]


@pytest.fixture(scope="module")
def million() -> context.Timeline:
    line = timeline(4096)
    line.prefill(4096)
    stretched(line.cache, MILLION)
    return line


def test_a_million_tokens_take_the_bytes_that_the_config_predicts(
    million: context.Timeline,
) -> None:
    predicted = Costs(LONG).cache_bytes(MILLION)
    assert caches.nbytes(million.cache) == pytest.approx(predicted, rel=0.03)


def test_a_token_after_a_million_needs_little_beside_the_cache(million: context.Timeline) -> None:
    held = caches.nbytes(million.cache)
    _, peak = million.decode(2)
    # The index scores of every key, some times over, and nothing of the size of the cache.
    assert peak - mx.get_active_memory() < 24 * 4 * MILLION // 4
    assert caches.nbytes(million.cache) == held


def test_the_best_of_a_million_tokens_are_exact_with_ties_to_the_lowest(
    million: context.Timeline,
) -> None:
    """The best key and its repetitions, which are 4096 / 4 entries apart, fill the top-k."""
    q = mx.random.normal((1, 1, LONG.index_n_heads, LONG.index_head_dim), key=mx.random.key(3))
    weights = mx.random.normal((1, 1, LONG.index_n_heads), key=mx.random.key(4))
    (selected,) = context.selections(million.model, million.cache, q, weights)
    chosen = np.array(selected)[0, 0]
    assert len(chosen) == LONG.index_topk
    np.testing.assert_array_equal(np.diff(chosen), 1024)
    assert chosen[0] < 1024


def test_a_chunk_after_a_million_tokens_needs_no_more_memory_than_any(
    million: context.Timeline,
) -> None:
    moment = caches.snapshot(million.cache)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    logits = million.model.last_logits(mx.full((1, 64), 7, mx.int32), million.cache)
    mx.eval(logits, caches.evaluated(million.cache))
    assert mx.get_peak_memory() - before < MOST_BESIDE_THE_CACHE
    caches.restore(million.cache, moment)


@pytest.mark.parametrize(
    ("tokens", "most"),
    [
        pytest.param(24576, 96 << 20, marks=pytest.mark.slow),
        pytest.param(
            131072, MOST_BESIDE_THE_CACHE, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]
        ),
    ],
)
def test_real_tokens_then_a_million(tokens: int, most: int) -> None:
    line = timeline(tokens)
    before = mx.get_active_memory()
    _, peak = line.prefill(tokens)
    assert peak - before - caches.nbytes(line.cache) < most
    real = entries(line.cache)
    stretched(line.cache, MILLION)
    for rows, before in zip(entries(line.cache), real, strict=True):
        np.testing.assert_array_equal(rows[:, : before.shape[1]], before)
    predicted = Costs(LONG).cache_bytes(MILLION)
    assert caches.nbytes(line.cache) == pytest.approx(predicted, rel=0.03)
    line.decode(1)
