"""How much of a prompt is read at a time: by memory, and by what a traced chunk has in memory."""

import mlx.core as mx
import pytest

from benchmarks.prefill import report
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import FLASH, PRO
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from dsv4_mlx.sizing.machines import GIB, memory_needed
from dsv4_mlx.sizing.prefill import CONTEXT, LONG_CHUNK, SHORT_CHUNK, chunk_bytes, chunk_that_fits
from dsv4_mlx.sizing.recipe_sizes import RECIPES
from dsv4_mlx.testing.checkpoints import TINY
from metal_kernels import registry

Q2 = RECIPES["V4-Flash"]["q2"]


def test_the_long_chunk_is_read_from_the_byte_on_at_which_it_fits() -> None:
    enough = memory_needed(FLASH, Q2, CONTEXT) + chunk_bytes(FLASH, LONG_CHUNK)
    assert chunk_that_fits(FLASH, Q2, enough, "metal") == LONG_CHUNK
    assert chunk_that_fits(FLASH, Q2, enough - 1, "metal") == SHORT_CHUNK
    assert chunk_that_fits(FLASH, Q2, enough - 1, "cuda") == SHORT_CHUNK


@pytest.mark.parametrize(("limit", "backend"), [(None, "metal"), (1 << 50, "cpu")])
def test_the_short_one_is_for_cpus_and_for_the_unknown(limit: int | None, backend: str) -> None:
    assert chunk_that_fits(FLASH, Q2, limit, backend) == SHORT_CHUNK


@pytest.mark.parametrize(
    ("weights", "memory_gib", "chunk"),
    [
        (RECIPES["V4-Flash"]["q2"], 128, SHORT_CHUNK),  # 96 GiB to use, 89.3 of weights
        (RECIPES["V4-Flash"]["q2"], 192, LONG_CHUNK),
        (RECIPES["V4-Flash"]["native"], 256, LONG_CHUNK),
    ],
)
def test_machines(weights: int, memory_gib: int, chunk: int) -> None:
    limit = memory_gib * GIB * 3 // 4
    assert chunk_that_fits(FLASH, weights, limit, "metal") == chunk


@pytest.mark.parametrize(("name", "config"), [("flash", FLASH), ("pro", PRO)])
def test_the_formula_is_what_a_traced_chunk_has(name: str, config) -> None:
    """A few layers of each kind stand for all of them."""
    few = config.replace(num_hidden_layers=6, compress_ratios=(*config.compress_ratios[:6], 0))
    counted = report(name, few, LONG_CHUNK, context=8_192)
    assert counted.peak_bytes == pytest.approx(chunk_bytes(few, LONG_CHUNK), rel=0.08)
    short = report(name, few, SHORT_CHUNK, context=8_192)
    assert short.peak_bytes == pytest.approx(chunk_bytes(few, SHORT_CHUNK), rel=0.15)


def test_an_engine_asks_the_memory_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fake_engine().prefill_chunk == SHORT_CHUNK
    assert Engine(Model(TINY, backend="cpu")).prefill_chunk == SHORT_CHUNK
    told = {"max_recommended_working_set_size": 8 * GIB}
    monkeypatch.setattr(mx, "device_info", lambda: told)
    on_metal = Model(TINY, plan=registry.bind("metal"))
    assert Engine(on_metal).prefill_chunk == LONG_CHUNK
    assert Engine(on_metal, prefill_chunk=7).prefill_chunk == 7
    told["max_recommended_working_set_size"] = GIB
    assert Engine(on_metal).prefill_chunk == SHORT_CHUNK
    with pytest.raises(UsageError, match="prefill_chunk"):
        Engine(FakeModel(), prefill_chunk=0)
