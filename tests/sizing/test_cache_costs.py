"""What a long cache costs: counted in bytes, with entries of a long text made up instead of read.

8,192 CSA entries stand for 32,768 tokens; no model could read that many in a test.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import LayerCache, LayerState, ring
from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.cache.forms import kept_rows, raw_width
from dsv4_mlx.cache.layouts import COMPACT
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole
from dsv4_mlx.sizing.costs import Costs
from metal_kernels.shared.formats import round_bf16, store
from tests.model import small

ENTRIES = 8192
POSITION = 4 * ENTRIES
HEAD_DIM, ROPE_DIMS, INDEX_DIM, WINDOW = 512, 64, 128, 128  # the release's
RAW_WIDTH = 2 * 2 * (HEAD_DIM + INDEX_DIM)  # projections and scores, two lanes each
TURNS = 100

CONFIG = small.config(num_hidden_layers=3, compress_ratios=[0, 4, 128, 0])


def rows(kind: str, count: int, width: int, rope_dims: int = ROPE_DIMS, seed: int = 0) -> mx.array:
    x = mx.random.normal((1, count, width), key=mx.random.key(seed))
    if kind == "raw":
        return x
    return store(round_bf16(x), "compact", kind, rope_dims)


def fill(state: LayerState, role: LayerRole, config: DeepseekV4Config) -> None:
    """Make `state` one that has seen POSITION tokens."""
    latent = (config.head_dim, config.qk_rope_head_dim)
    state.position = POSITION
    state.window = rows("latent", config.sliding_window, *latent)
    if role.owns_entries:
        state.open_rows = rows("raw", kept_rows(role), raw_width(config, role))
        state.entries = Entries.from_rows(rows("latent", POSITION // role.ratio, *latent))
    if role.selects:
        state.keys = Entries.from_rows(rows("key", ENTRIES, config.index_head_dim))
    mx.eval(state.evaluated())


def take_turn(cache: LayerCache, number: int) -> None:
    """Four tokens, one by one; the last closes a window."""
    state = cache.rows[0]
    for _ in range(4):
        latent = rows("latent", 1, HEAD_DIM, seed=number)
        state.window = ring.write(state.window, latent, state.position, WINDOW)
        raw = rows("raw", 1, RAW_WIDTH, seed=number)
        state.open_rows = ring.write(state.open_rows, raw, state.position, kept_rows(small.SPARSE))
        state.position += 1
        if state.position % 4 == 0:
            state.entries.append(latent)
            state.keys.append(rows("key", 1, INDEX_DIM, seed=number))
        mx.eval(state.evaluated())


@pytest.fixture
def long_cache() -> list[LayerCache]:
    cache = LayerCache(small.SPARSE, COMPACT)
    fill(cache.rows[0], small.SPARSE, FLASH)
    return [cache]


def entries(cache: LayerCache) -> np.ndarray:
    return np.array(cache.rows[0].entries.rows())


def active_bytes() -> int:
    mx.synchronize()
    return mx.get_active_memory()


def allocated_by(action: Callable[[], object]) -> int:
    """Bytes in use at the worst moment of `action`, above those in use before it."""
    before = active_bytes()
    mx.reset_peak_memory()
    action()
    mx.synchronize()
    return max(0, mx.get_peak_memory() - before)  # the peak stays 0 while nothing is allocated


def test_a_hundred_turns_with_a_hundred_snapshots(long_cache: list[LayerCache]) -> None:
    start = active_bytes()
    before = caches.nbytes(long_cache)
    moments = []
    for number in range(TURNS):
        take_turn(long_cache[0], number)
        moments.append(caches.snapshot(long_cache))
    fixed = moments[-1].nbytes
    allowed = 1.2 * before + TURNS * fixed
    assert fixed < before / 20
    assert caches.nbytes(long_cache) <= 1.2 * before
    assert sum(moment.nbytes for moment in moments) == TURNS * fixed
    assert active_bytes() - start + before <= allowed
    assert [moment.offset for moment in moments] == [POSITION + 4 * (n + 1) for n in range(TURNS)]


def test_going_back_through_a_hundred_snapshots_copies_nothing(
    long_cache: list[LayerCache],
) -> None:
    moments = []
    for number in range(TURNS):
        take_turn(long_cache[0], number)
        moments.append(caches.snapshot(long_cache))
    expected = entries(long_cache[0])

    def back_and_forth() -> None:
        for moment in reversed(moments):
            caches.restore(long_cache, moment)
        caches.restore(long_cache, moments[-1])

    assert allocated_by(back_and_forth) == 0
    np.testing.assert_array_equal(entries(long_cache[0]), expected)


def test_the_first_append_after_a_snapshot_copies_the_rings_alone(
    long_cache: list[LayerCache],
) -> None:
    for number in range(4):  # past the one step where the full buffer grows
        take_turn(long_cache[0], number)
    ordinary = allocated_by(lambda: take_turn(long_cache[0], 4))
    moment = caches.snapshot(long_cache)
    first = allocated_by(lambda: take_turn(long_cache[0], 8))
    assert first - ordinary <= 1.1 * moment.nbytes
    assert first < caches.nbytes(long_cache) / 20
    assert moment.offset == long_cache[0].offset - 4


def test_only_appending_behind_rows_that_others_see_copies_them(
    long_cache: list[LayerCache],
) -> None:
    """The one copy a rewind can cost, and it is made once."""
    moment = caches.snapshot(long_cache)
    take_turn(long_cache[0], 0)
    newer = caches.snapshot(long_cache)
    caches.restore(long_cache, moment)
    pool = sum(pool.nbytes for pool in long_cache[0].rows[0].pools())
    moved = allocated_by(lambda: take_turn(long_cache[0], 1))
    assert moved <= 2.5 * pool
    assert allocated_by(lambda: take_turn(long_cache[0], 2)) < pool / 10
    assert newer.offset == POSITION + 4


def test_a_rewind_nobody_else_looks_behind_copies_nothing(long_cache: list[LayerCache]) -> None:
    take_turn(long_cache[0], 0)  # makes room
    moment = caches.snapshot(long_cache)
    take_turn(long_cache[0], 1)
    caches.restore(long_cache, moment)
    pool = sum(pool.nbytes for pool in long_cache[0].rows[0].pools())
    assert allocated_by(lambda: take_turn(long_cache[0], 2)) < pool / 10


# --- A batch reads what its rows read -------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> Model:
    return small.model(CONFIG, small.weights(CONFIG), Numerics.OFFICIAL)


def long_model_cache(model: Model) -> list[LayerCache]:
    """A cache of the whole model at POSITION."""
    config, cache = model.config, model.make_cache()
    for role, layer in zip(config.layer_roles, cache, strict=True):
        fill(layer.rows[0], role, config)
    return cache


class Reads:
    """Bytes of keys and entries handed to the kernels that read them."""

    def __init__(self, model: Model, patch: pytest.MonkeyPatch) -> None:
        self.bytes, ops = 0, model._plan.ops
        for name, argument in (("index_topk", 2), ("sparse_attention", 5), ("sparse_attention", 1)):
            patch.setattr(ops, name, self._counting(getattr(ops, name), argument))

    def _counting(self, op: Callable, argument: int) -> Callable:
        def counted(*args, **options):
            array = args[argument]
            self.bytes += 0 if array is None else array.nbytes
            return op(*args, **options)

        return counted

    def of(self, action: Callable[[], object]) -> int:
        self.bytes = 0
        action()
        return self.bytes


def step(model: Model, cache: list[LayerCache], batch: int) -> None:
    mx.eval(model(mx.full((batch, 1), 7, dtype=mx.int32), cache))


def test_a_batch_of_three_reads_what_three_singles_read(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    singles = [long_model_cache(model) for _ in range(3)]
    batch = [LayerCache.merge(layers) for layers in zip(*singles, strict=True)]
    for cache in (*singles, batch):  # the first step finds every buffer full and grows it
        for _ in range(4):
            step(model, cache, len(cache[0].rows))
    reads = Reads(model, monkeypatch)
    apart = sum(reads.of(lambda cache=cache: step(model, cache, 1)) for cache in singles)
    together = reads.of(lambda: step(model, batch, 3))
    row_bytes = Costs(model.config).entry_bytes("compact") + Costs(model.config).index_key_bytes(
        "compact"
    )
    assert apart > 3 * ENTRIES * row_bytes
    assert together <= 1.05 * apart


def test_the_first_step_after_a_snapshot_costs_at_most_twice_any_other(model: Model) -> None:
    cache = long_model_cache(model)
    for _ in range(4):  # past the one step where the full buffers grow
        step(model, cache, 1)
    ordinary = [allocated_by(lambda: step(model, cache, 1)) for _ in range(4)]
    moments = []
    for _ in range(4):
        moments.append(caches.snapshot(cache))
        assert allocated_by(lambda: step(model, cache, 1)) <= 2 * min(ordinary)
    assert [moment.offset for moment in moments] == [POSITION + n for n in range(8, 12)]


def test_a_batch_of_three_copies_no_entries(model: Model) -> None:
    """What a step allocates is working space, used again by every row; padding the rows to one
    length would copy all their entries, three caches more."""
    singles = [long_model_cache(model) for _ in range(3)]
    batch = [LayerCache.merge(layers) for layers in zip(*singles, strict=True)]
    for cache in (singles[0], batch):
        for _ in range(4):
            step(model, cache, len(cache[0].rows))
    # MLX's CPU backend runs ahead of itself, so the worst moment differs from run to run.
    single = min(allocated_by(lambda: step(model, singles[0], 1)) for _ in range(8))
    together = min(allocated_by(lambda: step(model, batch, 3)) for _ in range(8))
    assert together - single < caches.nbytes(singles[0])


def test_reading_entries_copies_nothing(long_cache: list[LayerCache]) -> None:
    pools = long_cache[0].rows[0].pools()
    assert allocated_by(lambda: mx.eval([pool.rows() for pool in pools])) == 0
