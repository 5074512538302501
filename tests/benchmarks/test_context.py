"""benchmarks/context.py on the CPU: real prefill, generated entries, what is recorded."""

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import context
from dsv4_mlx.testing.checkpoints import LONG
from dsv4_mlx.testing.long_context import stretched


@pytest.fixture(scope="module")
def timeline() -> context.Timeline:
    model = context.load_synthetic(LONG, "cpu")
    prompt = np.arange(2048, dtype=np.int32) % LONG.vocab_size
    return context.Timeline(model, model.make_cache(), prompt)


def test_a_context_is_prefilled_then_stretched(timeline: context.Timeline) -> None:
    rate, peak = timeline.prefill(640)
    assert timeline.position == 640 and rate > 0 and peak > 0
    pools = [pool for layer in timeline.cache for pool in layer.rows[0].pools()]
    real = [np.array(pool.rows().astype(mx.float32)) for pool in pools]
    stretched(timeline.cache, 1536)
    for pool, before, ratio in zip(pools, real, (4, 4, 128), strict=True):
        rows = np.array(pool.rows().astype(mx.float32))
        assert rows.shape[1] == 1536 // ratio
        np.testing.assert_array_equal(rows[:, : before.shape[1]], before)
        np.testing.assert_array_equal(rows[:, before.shape[1]], before[:, 0])


def test_decoding_after_a_stretch_leaves_the_timeline_where_it_is(
    timeline: context.Timeline,
) -> None:
    before = timeline.cache[0].offset
    seconds, peak = timeline.decode(2)
    assert seconds > 0 and peak > 0
    assert timeline.cache[0].offset == before
    assert context.scan(timeline.model, timeline.cache, 2) > 0


def test_a_stretch_keeps_the_place_in_every_ring(timeline: context.Timeline) -> None:
    with pytest.raises(ValueError, match="multiple of 128 tokens above"):
        stretched(timeline.cache, timeline.cache[0].offset + 4)


def test_rows_say_which_caches_were_prefilled() -> None:
    found = list(context.rows((256, 512), real=256, backend="cpu", tokens=1))
    assert [row["cache"] for row in found] == ["prefilled", "generated"]
    assert found[0]["prefill_tokens_per_s"] > 0 and "prefill_tokens_per_s" not in found[1]
    assert set().union(*found) == set(context.FIELDS)
    assert found[1]["cache_bytes"] >= found[0]["cache_bytes"]
