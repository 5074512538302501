"""A prompt that passes whole layers has the bits of one that all experts are in memory for."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.model.v4 import Model
from tests.model import streamed
from tests.model.streamed import SMALL

TOKENS = np.random.default_rng(5).integers(2, SMALL.vocab_size, 60)
E, LAYERS = SMALL.n_routed_experts, SMALL.num_hidden_layers


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole")


def by_layers(model: Model, then: Callable[[int], None] = lambda layer: None) -> np.ndarray:
    """Logits after TOKENS, in chunks that pass a layer before the next one begins."""
    assert model.streamed is not None
    cache, whole = model.make_cache(), model.streamed.whole_layers()
    parts = [mx.array(TOKENS[at : at + 25])[None] for at in range(0, TOKENS.size, 25)]
    streams = [
        model.ops.embed_streams(part, model.model.embed_tokens.weight, streams=SMALL.hc_mult)
        for part in parts
    ]
    try:
        for number, layer in enumerate(model.layers):
            whole.enter(number)
            last = number == LAYERS - 1
            streams = [
                layer(one, part, cache[number], last=last)
                for one, part in zip(streams, parts, strict=True)
            ]
            mx.eval(streams)
            whole.leave(number)
            then(number)
    finally:
        whole.close()
    return np.array(model.logits(streams[-1])[:, 0])


@pytest.mark.parametrize("recipe", ["native", "mixed"])
@pytest.mark.parametrize("slots", [2, 5])
def test_bits_and_reads(parent: Path, recipe: str, slots: int) -> None:
    folder = streamed.written(parent, recipe)
    whole = streamed.load(folder, None)
    cache = whole.make_cache()
    for at in range(0, TOKENS.size, 25):
        expected = np.array(whole.last_logits(mx.array(TOKENS[at : at + 25])[None], cache))
    model = streamed.load(folder, slots)
    assert model.streamed is not None
    with streamed.late_disk(slots):
        np.testing.assert_array_equal(by_layers(model), expected)
        counts = model.streamed.facts.counts  # type: ignore[attr-defined]
        misses = counts.misses
        assert misses >= E * (LAYERS - 1), "each expert once, but for the last layer"
        np.testing.assert_array_equal(by_layers(model), expected)
        # The slots keep what the last tokens chose, and that is not read again.
        assert counts.misses - misses <= (E - slots) * (LAYERS - 1) + 3 * SMALL.num_experts_per_tok


def test_the_last_tokens_experts_stay(parent: Path) -> None:
    model = streamed.load(streamed.written(parent, "native"), 4)
    held: dict[int, list[int]] = {}

    def look(layer: int) -> None:
        assert model.streamed is not None
        held[layer] = list(model.streamed.facts.pools[layer].held)  # type: ignore[attr-defined]

    by_layers(model, look)
    chosen = model.layers[0].mlp.gate.tid2eid[int(TOKENS[-1])].tolist()
    assert held[0][-len(chosen) :] == chosen, "used last"
    assert all(len(held[layer]) == 4 for layer in range(LAYERS - 1))


def test_the_trace_has_every_choice(parent: Path) -> None:
    model = streamed.load(streamed.written(parent, "native"), 2)
    assert model.streamed is not None
    seen: list[tuple[int, int]] = []
    note = lambda layer, ids: seen.append((layer, len(ids)))  # noqa: E731
    model.streamed.facts.trace = note  # type: ignore[attr-defined]
    by_layers(model)
    # A prompt is one call of a layer, however many chunks it has; the last layer's are its own.
    assert seen == [*((layer, TOKENS.size) for layer in range(LAYERS - 1)), *[(2, 1)] * 3]


def test_what_is_staged_is_two_layers_and_given_back(parent: Path) -> None:
    model = streamed.load(streamed.written(parent, "native"), 2)
    assert model.streamed is not None
    whole = model.streamed.whole_layers()
    before = mx.get_active_memory()
    whole.enter(0)
    # An allocation may be some pages larger than its array.
    assert abs(mx.get_active_memory() - before - whole.nbytes) <= 16_384
    whole.leave(0)
    whole.enter(1)
    assert abs(mx.get_active_memory() - before - whole.nbytes) <= 16_384
    whole.close()
    assert mx.get_active_memory() - before <= 16_384 < whole.nbytes // 8


def test_a_failure_leaves_a_model_that_goes_on(parent: Path) -> None:
    folder = streamed.written(parent, "native")
    model = streamed.load(folder, 3)
    expected = by_layers(model)

    def fail(layer: int) -> None:
        raise CheckpointError("gone")

    with pytest.raises(CheckpointError, match="gone"):
        by_layers(model, fail)
    np.testing.assert_array_equal(by_layers(model), expected)
    whole = streamed.load(folder, None)
    np.testing.assert_array_equal(
        streamed.logits(model, TOKENS.tolist(), 50), streamed.logits(whole, TOKENS.tolist(), 50)
    )
