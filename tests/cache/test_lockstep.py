"""Rows in lockstep predict what each of them predicts alone."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.lockstep import lockstep_cache, widened
from dsv4_mlx.errors import CacheError
from dsv4_mlx.model.v4 import Model
from tests.model import small

CONFIG = small.config(
    num_hidden_layers=3, compress_ratios=[4, 128, 0, 0], sliding_window=6, index_topk=4
)


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG))


def texts(rows: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, CONFIG["vocab_size"], (rows, length))


def fed(model: Model, tokens: np.ndarray, cache: list[LayerCache]) -> np.ndarray:
    """Logits after every token [B, S, V], the state evaluated as a loop does it."""
    logits = model(mx.array(tokens.astype(np.int32)), cache)
    mx.eval(logits, caches.evaluated(cache))
    return np.array(logits, np.float64)


def empty(model: Model) -> list[LayerCache]:
    return lockstep_cache(model.config, model.layout)


def straight(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Logits of every row of [B, S], each in a single cache."""
    return np.concatenate([fed(model, row[None], model.make_cache()) for row in tokens])


def test_forks_of_bundles_of_two_lengths_go_on_as_each_does_alone(model):
    """Across closing windows of CSA, chosen entries, and the window of the attention."""
    prompts = (texts(2, 19), texts(1, 7, seed=1))
    tails = texts(6, 23, seed=2)
    batch: list[LayerCache] = []
    for prompt in prompts:
        read = empty(model)
        fed(model, prompt, read)
        for layer, more in zip(batch, widened(read, 2), strict=False):
            layer.extend(more)
        batch = batch or widened(read, 2)
    found = np.concatenate([fed(model, tails[:, i : i + 1], batch) for i in range(23)], axis=1)
    whole = [p for prompt in prompts for p in prompt for _ in range(2)]
    for row, prompt in enumerate(whole):
        alone = straight(model, np.concatenate([prompt, tails[row]])[None])[0, len(prompt) :]
        assert small.relative_error(found[row], alone) < 1e-4


def test_rows_that_are_kept_go_on_and_the_others_are_gone(model):
    tokens = texts(5, 18)
    batch = empty(model)
    fed(model, tokens[:, :9], batch)
    for layer in batch:
        layer.filter([1, 4])
    found = fed(model, tokens[[1, 4], 9:], batch)
    assert small.relative_error(found, straight(model, tokens[[1, 4]])[:, 9:]) < 1e-4
    assert all(sum(layer.widths) == 2 for layer in batch)


def test_a_fork_leaves_its_origin_as_it_was(model):
    tokens = texts(2, 20)
    batch = empty(model)
    fed(model, tokens[:, :9], batch)
    other = caches.fork(batch)
    fed(model, texts(2, 8, seed=5), other)
    found = fed(model, tokens[:, 9:], batch)
    assert small.relative_error(found, straight(model, tokens)[:, 9:]) < 1e-4


def test_one_row_reads_on_alone_as_a_single_timeline(model):
    tokens = texts(3, 20)
    batch = empty(model)
    fed(model, tokens[:, :9], batch)
    one = [layer.extract(2) for layer in batch]
    assert all(layer.is_plain for layer in one)
    found = fed(model, tokens[2:, 9:], one)
    assert small.relative_error(found, straight(model, tokens[2:])[:, 9:]) < 1e-4


def test_a_batch_of_another_size_is_refused(model):
    batch = empty(model)
    fed(model, texts(3, 5), batch)
    with pytest.raises(CacheError, match=r"expected 3 rows of tokens.* found 2"):
        fed(model, texts(2, 1), batch)


def test_only_rows_in_lockstep_are_widened(model):
    with pytest.raises(CacheError, match="lockstep"):
        widened(model.make_cache(), 2)
