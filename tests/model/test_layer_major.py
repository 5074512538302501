"""A prompt that passes a layer at a time leaves the bits of chunks that pass all layers."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx import cache
from dsv4_mlx.cache import LayerCache, Snapshot
from dsv4_mlx.model.layer_major import read_by_layers
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from tests.model import engrams, small

SETTINGS = small.config(
    num_hidden_layers=4, compress_ratios=[0, 4, 128, 4, 0], sliding_window=10, index_topk=8
)
LENGTH = 150  # past the first window of 128
MOMENTS = (1, 40, 96, 133)
"""Inside of chunks of 48, at the end of one, and before the first window of 128 is complete."""
DECODED = 3


@pytest.fixture(scope="module", params=["official", "plain", "engram"])
def model(request: pytest.FixtureRequest) -> Model:
    if request.param == "engram":
        return engrams.model(engrams.weights())
    return small.model(SETTINGS, small.weights(SETTINGS), Numerics(request.param))


def ids(model: Model, length: int = LENGTH) -> mx.array:
    return mx.array(small.TOKENS[:length].astype(np.int32) % model.config.vocab_size)[None]


def by_chunks(
    model: Model, timeline: list[LayerCache], tokens: mx.array, chunk: int
) -> tuple[mx.array, list[Snapshot]]:
    """The other order: logits after the last token, and the moments on the way."""
    logits, found = mx.array(0.0), []
    for start in range(0, tokens.shape[1], chunk):
        part = tokens[:, start : start + chunk]
        stop = timeline[0].offset + part.shape[1]
        inside = [at for at in MOMENTS if timeline[0].offset < at < stop]
        cache.mark(timeline, inside)
        logits = model.last_logits(part, timeline)
        mx.eval(logits, cache.evaluated(timeline))
        found += cache.marked(timeline)
        if stop in MOMENTS:
            found.append(cache.snapshot(timeline))
    return logits, found


def held(layers: Sequence[Sequence[cache.LayerState]]) -> list[np.ndarray]:
    rows = (row for rows in layers for row in rows)
    return [np.array(array) for row in rows for _, array in sorted(row.arrays().items())]


def assert_same(ours: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("chunk", [1000, 48, 30])
def test_logits_caches_moments_and_what_follows_are_those_of_chunks(
    model: Model, chunk: int
) -> None:
    tokens, one, other = ids(model), model.make_cache(), model.make_cache()
    expected, moments = by_chunks(model, other, tokens, chunk)
    passed: list[int] = []
    logits = read_by_layers(
        model,
        tokens,
        one,
        chunk=chunk,
        moments=MOMENTS,
        before_layer=lambda layer: passed.append(layer) is None,
    )
    assert logits is not None
    assert_same([np.array(logits)], [np.array(expected)])
    assert_same(held([layer.rows for layer in one]), held([layer.rows for layer in other]))
    found = cache.marked(one)
    assert [moment.offset for moment in found] == [moment.offset for moment in moments]
    for moment, theirs in zip(found, moments, strict=True):
        assert_same(held(moment.layers), held(theirs.layers))
    assert passed == list(range(len(model.layers) + 1))
    for token in small.TOKENS[LENGTH : LENGTH + DECODED]:
        following = mx.array([[int(token) % model.config.vocab_size]])
        assert_same([np.array(model(following, one))], [np.array(model(following, other))])


def test_a_second_prompt_goes_on_where_the_first_ended(model: Model) -> None:
    tokens, one, other = ids(model), model.make_cache(), model.make_cache()
    for part in (tokens[:, :61], tokens[:, 61:62], tokens[:, 62:]):
        ours = read_by_layers(model, part, one, chunk=48)
        theirs, _ = by_chunks(model, other, part, 48)
        assert ours is not None
        assert_same([np.array(ours)], [np.array(theirs)])
    assert_same(held([layer.rows for layer in one]), held([layer.rows for layer in other]))


class Recorded:
    """Experts that tell what they were asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def enter(self, layer: int) -> None:
        self.calls.append(f"enter {layer}")

    def leave(self, layer: int) -> None:
        self.calls.append(f"leave {layer}")

    def close(self) -> None:
        self.calls.append("close")


@pytest.mark.parametrize("stop", [0, 2])
def test_a_stop_takes_effect_before_the_next_layer(model: Model, stop: int) -> None:
    experts = Recorded()
    logits = read_by_layers(
        model,
        ids(model, 20),
        model.make_cache(),
        chunk=8,
        before_layer=lambda layer: layer < stop,
        experts=experts,
    )
    assert logits is None
    passed = [f"{what} {layer}" for layer in range(stop) for what in ("enter", "leave")]
    assert experts.calls == [*passed, "close"]


def test_experts_are_let_go_of_when_a_layer_fails(model: Model) -> None:
    experts = Recorded()

    def fails(layer: int) -> bool:
        if layer == 1:
            raise OSError("no disk")
        return True

    with pytest.raises(OSError, match="no disk"):
        read_by_layers(
            model, ids(model, 20), model.make_cache(), chunk=8, before_layer=fails, experts=experts
        )
    assert experts.calls == ["enter 0", "leave 0", "close"]
