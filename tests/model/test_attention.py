"""The three kinds of attention against the oracle: in one call, from a cache, in a batch."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.cache import LayerCache, for_one_call, layout_for
from dsv4_mlx.model.attention import Attention
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.release.layer_roles import LayerRole, layer_role
from tests.model import small
from tests.oracle import v4_numpy as v4

LENGTHS = {0: 40, 4: 60, 128: 140}
RATIOS = list(LENGTHS)


def pair(ratio: int, numerics: Numerics = Numerics.PLAIN, **changes: object):
    settings = small.one_layer(ratio, **changes)
    tensors = small.weights(settings)
    attention = small.model(settings, tensors, numerics).layers[0].self_attn
    official = numerics is Numerics.OFFICIAL
    return attention, v4.Layer(settings, tensors, "layers.0.", ratio, False, official)


def inputs(ratio: int, batch: int = 1) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((batch, LENGTHS[ratio], 48))
    return x.astype(np.float32).astype(np.float64)


def one_call(ratio: int) -> LayerCache:
    return for_one_call(layer_role(ratio, layer=0))


def empty(ratio: int) -> LayerCache:
    return LayerCache(layer_role(ratio, layer=0), layout_for(False))


def run(attention: Attention, x: np.ndarray, cache: LayerCache) -> np.ndarray:
    return np.array(attention(mx.array(x.astype(np.float32)), cache), np.float64)


@pytest.mark.parametrize("role", small.ROLES)
def test_a_layer_has_the_parts_of_its_role(role: LayerRole) -> None:
    compressor = pair(role.ratio)[0].compressor
    assert (compressor is not None) == role.owns_entries
    assert (compressor is not None and compressor.indexer is not None) == role.selects


@pytest.mark.parametrize("ratio", RATIOS)
def test_plain_output_equals_the_oracle(ratio: int) -> None:
    attention, layer = pair(ratio, index_topk=4)
    x = inputs(ratio)
    expected, (_, _, margins) = v4._attention(layer, x[0], None)
    assert margins is None or (margins > 1e-4).all()
    found = run(attention, x, one_call(ratio))[0]
    assert small.relative_error(found, expected) < 3e-6


@pytest.mark.parametrize("ratio", RATIOS)
def test_official_output_is_within_its_roundings(ratio: int) -> None:
    attention, layer = pair(ratio, Numerics.OFFICIAL)
    x = v4.round_bf16(inputs(ratio))
    expected, _ = v4._attention(layer, x[0], None)
    found = run(attention, x, one_call(ratio))[0]
    assert small.relative_error(found, expected) < 2**-9
    plain, _ = v4._attention(pair(ratio)[1], x[0], None)
    assert small.relative_error(found, plain) > small.relative_error(found, expected)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("sizes", [[1], [5, 1, 30], [23, 2]])
def test_calls_with_a_cache_equal_one_call(ratio: int, sizes: list[int]) -> None:
    attention, _ = pair(ratio, index_topk=4)
    x = inputs(ratio)
    whole, cache = run(attention, x, one_call(ratio)), empty(ratio)
    found, start = [], 0
    while start < x.shape[1]:
        size = sizes[min(len(found), len(sizes) - 1)]
        found.append(run(attention, x[:, start : start + size], cache))
        start += size
    np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=2e-5)
    assert cache.offset == x.shape[1]


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_future_changes_no_bit_of_the_past(ratio: int) -> None:
    attention, _ = pair(ratio, index_topk=4)
    x, token = inputs(ratio), LENGTHS[ratio] - 9
    changed = x.copy()
    changed[0, token] += 1
    before, after = (run(attention, a, one_call(ratio))[0] for a in (x, changed))
    np.testing.assert_array_equal(after[:token], before[:token])
    assert (np.abs(after[token:] - before[token:]).max(axis=1) > 1e-5).all()


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("cached", [False, True])
def test_batch_rows_attend_to_themselves(ratio: int, cached: bool) -> None:
    attention, _ = pair(ratio, index_topk=4)
    x = inputs(ratio, batch=3)

    def cache() -> LayerCache:
        return empty(ratio) if cached else one_call(ratio)

    together = run(attention, x, cache())
    for row in range(3):
        alone = run(attention, x[row : row + 1], cache())[0]
        np.testing.assert_allclose(together[row], alone, atol=2e-5)


@pytest.mark.parametrize("size", [1, 6, 7, 40])
def test_the_window_is_as_long_as_a_query_can_reach(size: int) -> None:
    attention, _ = pair(0, sliding_window=7)
    cache = empty(0)
    run(attention, inputs(0)[:, :size], cache)
    window = np.array(cache.rows[0].window)
    assert window.shape == (1, 7, 80)
    assert np.abs(window[0]).max(axis=1).astype(bool).sum() == min(size, 7)


def test_a_window_of_one_sees_only_the_token_itself() -> None:
    attention, layer = pair(0, sliding_window=1)
    x = inputs(0)
    expected, _ = v4._attention(layer, x[0], None)
    cache = empty(0)
    found = np.concatenate([run(attention, x[:, :9], cache), run(attention, x[:, 9:], cache)], 1)
    np.testing.assert_allclose(found[0], expected, atol=2e-5)


@pytest.mark.parametrize("topk", [4, 13])  # both rows select, only the longer one does
@pytest.mark.parametrize("split", [0, 7, 30])  # 7: the padding reaches into the second call
def test_padding_gets_no_output_and_leaves_no_trace(topk: int, split: int) -> None:
    attention, _ = pair(4, index_topk=topk)
    x, cache = inputs(4, batch=2), empty(4)
    cache.prepare(left_padding=[11, 0])
    calls = [x[:, :split], x[:, split:]] if split else [x]
    found = np.concatenate([run(attention, part, cache) for part in calls], axis=1)
    np.testing.assert_array_equal(found[0, :11], 0 * found[0, :11])
    for row, start in ((0, 11), (1, 0)):
        alone = run(attention, x[row : row + 1, start:], one_call(4))
        np.testing.assert_allclose(found[row, start:], alone[0], atol=2e-5)
    assert [row.position for row in cache.rows] == [LENGTHS[4] - 11, LENGTHS[4]]
