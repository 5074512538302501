"""Engram in the model: the oracle's logits, and state that no chunking, batch or rewind changes."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx import tracing
from dsv4_mlx.cache import LayerCache
from dsv4_mlx.cache.lockstep import lockstep_cache, widened
from dsv4_mlx.errors import CacheError, UsageError
from dsv4_mlx.model.compiled import CompiledStep
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.spellings import config_of
from metal_kernels.variants import recording
from tests.model import engrams, running, small
from tests.oracle import engram_numpy

TOKENS = small.TOKENS[:60]
PROMPT, NEXT = TOKENS[:41], TOKENS[41:55]
MARK = "a" * 64
CLOSE = 2e-5  # float32 sums of other shapes
Cache = list[LayerCache]
CONFIG, HASHING = engrams.CONFIG, engrams.HASHINGS[2]


@pytest.fixture(scope="module")
def model() -> Model:
    return engrams.model(engrams.weights())


def grown(model: Model, tokens: np.ndarray = PROMPT) -> Cache:
    cache = model.make_cache()
    running.feed(model, cache, [tokens])
    return cache


def expected(tokens: np.ndarray, official: bool) -> np.ndarray:
    ids = engrams.TOKEN_MAP[tokens]
    return engram_numpy.forward(
        engrams.CONFIG, engrams.weights(), tokens, ids, engrams.HASHINGS, official=official
    )


def test_the_logits_are_the_oracles(model: Model) -> None:
    error = small.relative_error(small.logits(model, TOKENS), expected(TOKENS, official=False))
    assert error < 1e-5


def test_the_official_logits_are_near_the_oracles() -> None:
    """Choices may differ where a rounding does; on average the logits do not."""
    ours = engrams.model(engrams.weights(), Numerics.OFFICIAL)
    error = small.relative_error(small.logits(ours, TOKENS), expected(TOKENS, official=True))
    assert error < 0.05


def test_what_is_looked_up_matters(model: Model) -> None:
    tensors = engrams.weights()
    for name in tensors:
        if name.endswith("engram.embed.weight"):
            tensors[name] = 0 * tensors[name]
    without = small.logits(engrams.model(tensors), TOKENS)
    assert small.relative_error(without, small.logits(model, TOKENS)) > 0.1


@pytest.mark.parametrize("sizes", [[1], [5], [25, 1], [3, 4, 1]], ids=str)
def test_chunks_give_the_logits_of_the_whole(model: Model, sizes: list[int]) -> None:
    tokens = TOKENS[:30]
    whole = small.logits(model, tokens)
    np.testing.assert_allclose(small.in_chunks(model, tokens, sizes), whole, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("sizes", [1, 2, 7, [40, 1, 1, 18]], ids=str)
def test_chunks_look_up_the_same_rows_bit_for_bit(model: Model, sizes: int | list[int]) -> None:
    engram, layer = model.engrams()[2], model.make_cache()[2]
    parts = running.pieces(TOKENS, sizes)
    found = [np.array(engram.look_up(mx.array(part)[None], layer)()) for part in parts]
    whole = engram.look_up(mx.array(TOKENS)[None], model.make_cache()[2])()
    np.testing.assert_array_equal(
        np.concatenate(found, axis=1), np.array(whole)[:, : sum(map(len, parts))]
    )


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_rows_of_a_ragged_batch_are_single_runs(model: Model, left: bool) -> None:
    prompts = [TOKENS[:n] for n in (3, 41, 20)]
    batch = running.run_batch(model, prompts, 16, left=left)
    for prompt, logits in zip(prompts, batch, strict=True):
        np.testing.assert_allclose(logits, small.logits(model, prompt), rtol=0, atol=CLOSE)


def merged(model: Model) -> Cache:
    singles = [grown(model, TOKENS[:n]) for n in (3, 41)]
    return [LayerCache.merge(layers) for layers in zip(*singles, strict=True)]


def test_merged_timelines_keep_their_own_ids(model: Model) -> None:
    batch, tokens = merged(model), mx.array([[7], [9]])
    logits = np.array(model(tokens, batch)[:, 0])
    for n, token, row in ((3, 7, logits[0]), (41, 9, logits[1])):
        alone = np.array(model(mx.array([[token]]), grown(model, TOKENS[:n]))[0, 0])
        np.testing.assert_allclose(row, alone, rtol=0, atol=CLOSE)
    assert batch[0].rows[0].ids.tolist() == [[TOKENS[2], 7]]
    assert batch[0].rows[1].ids.tolist() == [[TOKENS[40], 9]]
    assert batch[1].rows[0].ids is None  # a layer without Engram


def by_snapshot(model: Model, cache: Cache) -> Cache:
    """Back from a detour."""
    moment = caches.snapshot(cache)
    running.feed(model, cache, [NEXT[::-1].copy()])
    caches.restore(cache, moment)
    return cache


def by_fork(model: Model, cache: Cache) -> Cache:
    other = caches.fork(cache)
    running.feed(model, cache, [NEXT[::-1].copy()])
    return other


def by_copy(model: Model, cache: Cache) -> Cache:
    return copy.deepcopy(cache)


def by_state(model: Model, cache: Cache) -> Cache:
    return [LayerCache.from_state(layer.state) for layer in cache]


def by_extracting(model: Model, cache: Cache) -> Cache:
    batch = [LayerCache.merge([layer, layer]) for layer in cache]
    return [layer.extract(1) for layer in batch]


HISTORIES = (by_snapshot, by_fork, by_copy, by_state, by_extracting)


@pytest.mark.parametrize("history", HISTORIES)
def test_any_history_reads_on_bit_for_bit(
    model: Model, history: Callable[[Model, Cache], Cache]
) -> None:
    straight = running.feed(model, grown(model), [NEXT])
    found = running.feed(model, history(model, grown(model)), [NEXT])
    np.testing.assert_array_equal(found, straight)


def test_a_saved_cache_and_its_places_read_on_bit_for_bit(model: Model, tmp_path: Path) -> None:
    cache, moments = model.make_cache(), []
    for start, stop in ((0, 1), (1, 30), (30, 41)):
        running.feed(model, cache, [PROMPT[start:stop]])
        moments.append(caches.snapshot(cache))
    path = tmp_path / "cache"
    caches.save(path, cache, fingerprint=MARK, tokens=PROMPT.tolist(), places=moments)
    loaded, *_, places = caches.load(path, model=model, fingerprint=MARK)
    for place, original in zip(places, moments, strict=True):
        caches.restore(loaded, place)
        caches.restore(cache, original)
        kept = running.feed(model, cache, [NEXT])
        np.testing.assert_array_equal(running.feed(model, loaded, [NEXT]), kept)


def test_a_cache_file_without_the_ids_is_refused(model: Model, tmp_path: Path) -> None:
    cache, path = grown(model), tmp_path / "cache"
    cache[0].rows[0].ids = None
    caches.save(path, cache, fingerprint=MARK, tokens=PROMPT.tolist())
    with pytest.raises(CacheError, match="expected ids of layer 0"):
        caches.load(path, model=model, fingerprint=MARK)


def test_moments_inside_a_call_keep_their_ids(model: Model) -> None:
    cache = grown(model, TOKENS[:5])
    offsets = [6, 7, 8, 41]
    caches.mark(cache, offsets)
    running.feed(model, cache, [TOKENS[5:]])
    for offset, moment in zip(offsets, caches.marked(cache), strict=True):
        assert moment.layers[2][0].ids.tolist() == [TOKENS[offset - 2 : offset].tolist()]
        caches.restore(cache, moment)
        found = running.feed(model, cache, [NEXT])
        straight = running.feed(model, grown(model, TOKENS[:offset]), [NEXT])
        np.testing.assert_allclose(found, straight, rtol=0, atol=CLOSE)


def test_answers_in_lockstep_keep_their_ids(model: Model) -> None:
    cache = lockstep_cache(model.config, model.layout)
    model(mx.array(PROMPT)[None], cache)
    wide = widened(cache, 2)
    model(mx.array([[7], [9]]), wide)
    found = np.array(model(mx.array([[3], [3]]), wide)[:, 0])
    for token, row in zip((7, 9), found, strict=True):
        alone = grown(model)
        running.feed(model, alone, [np.array([token])])
        straight = running.feed(model, alone, [np.array([3])])[0]
        np.testing.assert_allclose(row, straight, rtol=0, atol=CLOSE)


@pytest.fixture
def taken_apart() -> Iterator[None]:
    """What `mx.compile` is given runs as it is, without a compiler."""
    mx.disable_compile()
    yield
    mx.enable_compile()


def test_a_compiled_step_looks_up_in_its_graph(model: Model, taken_apart: None) -> None:
    """Over a window that closes; the last ids are arguments and results of the graph."""
    own, step = grown(model, np.resize(TOKENS, 133)), CompiledStep(model)
    other = caches.fork(own)
    for token in NEXT[:6].tolist():
        straight = np.array(model.last_logits(mx.array([[token]]), own))
        found = np.array(step.last_logits(mx.array([[token]]), other))
        np.testing.assert_allclose(found, straight, rtol=0, atol=CLOSE)
    assert step.traces == 6  # each runs as it is
    for layer in engrams.FACTS.layer_ids:
        assert other[layer].rows[0].ids.tolist() == own[layer].rows[0].ids.tolist()
        assert other[layer].rows[0].ids.tolist() == [NEXT[4:6].tolist()]


def test_a_graph_of_a_model_with_engram_is_replayed() -> None:
    facts = EngramConfig((1,), 99092, 16_000_000)
    config = FLASH.replace(num_hidden_layers=4, compress_ratios=(0, 0, 4, 128, 0), engram=facts)
    traced, cache = tracing.traced_model(config, "metal", 8190)
    step = CompiledStep(traced)
    with recording():
        for _ in range(6):
            step.last_logits(mx.array([[5]], mx.int32), cache)
    assert step.traces == 3  # no window closes, the short one does, both do


OFFICIAL_NAMES = {"table.weight": "embed.weight", "kv_proj.weight": "wkv.weight"}


@pytest.mark.parametrize("name", ["table.weight", "kv_proj.weight", "q_weight", "k_weight"])
def test_gradients_reach_tables_product_and_weights(model: Model, name: str) -> None:
    """Along a random direction the oracle's loss rises as the gradient says."""
    tokens, tensors = TOKENS[:12], engrams.weights()
    engram = engrams.model(tensors).engrams()[2]
    module, _, field = name.rpartition(".")
    holder = engram[module] if module else engram
    shape = (1, 12, CONFIG["hc_mult"], CONFIG["hidden_size"])
    streams, pull = (mx.random.normal(shape, key=mx.random.key(n)) for n in (0, 1))

    def loss(array: mx.array) -> mx.array:
        holder[field] = array
        looked_up = engram.look_up(mx.array(tokens)[None], model.make_cache()[2])
        return (engram(streams, looked_up) * pull).sum()

    gradient = np.array(mx.grad(loss)(holder[field]), np.float64)
    official = f"layers.2.engram.{OFFICIAL_NAMES.get(name, name)}"
    start = tensors[official]
    direction = np.random.default_rng(3).standard_normal(start.shape)

    def exact(step: float) -> float:
        tensors[official] = start + step * direction
        inputs, ids = np.array(streams[0], np.float64), engrams.TOKEN_MAP[tokens]
        found = engram_numpy.before_layer(tensors, "layers.2.", inputs, ids, HASHING)
        return float((found * np.array(pull[0], np.float64)).sum())

    slope = (exact(1e-7) - exact(-1e-7)) / 2e-7
    assert np.isclose((gradient * direction).sum(), slope, rtol=1e-2)
    if name == "table.weight":  # rows that nobody asked for have none
        rows = engram_numpy.hashed(engrams.TOKEN_MAP[tokens], *vars(HASHING).values())
        assert np.array_equal(np.flatnonzero(np.abs(gradient).sum(axis=1)), np.unique(rows))


def test_compressed_ids_without_a_map_are_refused() -> None:
    bare = Model(config_of(engrams.CONFIG), backend="cpu")
    with pytest.raises(UsageError, match="expected a token map for Engram's 60 compressed ids"):
        bare(mx.array([[1, 2]]))
