"""A prompt read a layer at a time: all of its chunks pass a layer before the next one begins.

Where experts lie in files every one of them is then read once for the whole prompt, however many
chunks it has. A layer sees nothing but the streams before it and its own state, so logits and
caches have the bits of the other order, chunk after chunk through all layers.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.model.numerics import Numerics

if TYPE_CHECKING:
    from dsv4_mlx.model.decoder_layer import DecoderLayer
    from dsv4_mlx.model.v4 import Model

BeforeLayer = Callable[[int], bool]
"""Called before each layer by its number, and once after the last; false stops the reading."""


class WholeLayers(Protocol):
    """Where the experts of a layer come from while many tokens pass it."""

    def enter(self, layer: int) -> None:
        """All chunks pass this layer now; the next one's experts may be read meanwhile."""
        ...

    def leave(self, layer: int) -> None:
        """What this layer computed is evaluated."""
        ...

    def close(self) -> None:
        """No layer follows, whether all were passed or not."""
        ...


class _InMemory:
    """Experts that are there."""

    def enter(self, layer: int) -> None:
        """Nothing to do."""

    def leave(self, layer: int) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def read_by_layers(
    model: "Model",
    tokens: mx.array,
    cache: Sequence[LayerCache],
    *,
    chunk: int,
    moments: Collection[int] = (),
    before_layer: BeforeLayer = lambda layer: True,
    experts: WholeLayers | None = None,
) -> mx.array | None:
    """Token ids [1, S] in chunks of `chunk` -> logits [1, V] float32 after the last, evaluated as
    the cache is; None where `before_layer` stopped it, and the cache is then in no moment at all.

    `moments` are offsets of the timeline, inside the prompt or at its end, that
    `cache.snapshots.marked` gives afterwards as if `mark` had asked for them.
    """
    experts = experts or _InMemory()
    spans = [slice(at, at + chunk) for at in range(0, tokens.shape[1], chunk)]
    parts = [tokens[:, span] for span in spans]
    passing = _Passing(model, parts, moments)
    last = len(model.layers) - 1
    try:
        for number, layer in enumerate(model.layers):
            if not before_layer(number):
                return None
            experts.enter(number)
            passing.through(layer, cache[number], is_last=number == last)
            experts.leave(number)
        before_layer(len(model.layers))
    finally:
        experts.close()
    for layer_cache, held in zip(cache, passing.held, strict=True):
        layer_cache.rows[0].moments = held
    logits = model.logits(passing.streams[-1])[:, 0]
    mx.eval(logits)
    return logits


class _Passing:
    """The streams of a prompt's chunks between two layers."""

    def __init__(self, model: "Model", parts: list[mx.array], moments: Collection[int]) -> None:
        self._model, self._parts, self._moments = model, parts, moments
        self.streams = [model.embedded(part) for part in parts]
        # Official values are bfloat16's between layers: nothing is lost, and half is kept.
        self._kept = mx.bfloat16 if model.numerics is Numerics.OFFICIAL else mx.float32
        self.held: list[dict[int, dict[str, mx.array]]] = []
        """By layer and offset, the rings there."""

    def through(self, layer: "DecoderLayer", cache: LayerCache, *, is_last: bool) -> None:
        """Every chunk passes `layer`; of the last layer's streams those of the last token stay."""
        (state,) = cache.rows
        held: dict[int, dict[str, mx.array]] = {}
        passed: list[mx.array] = []
        for tokens in self._parts:
            stop = state.position + tokens.shape[1]
            inside = [offset for offset in self._moments if state.position < offset <= stop]
            state.moments = {offset: {} for offset in inside}
            streams = self.streams.pop(0).astype(mx.float32)
            if is_last and self.streams:  # another chunk follows, so nobody reads on from this one
                layer.take_in(streams, tokens, cache)
            else:
                streams = layer(streams, tokens, cache, last=is_last)
                passed.append(streams if is_last else streams.astype(self._kept))
            # At once, as in the other order: entries that a graph still holds would be copied.
            mx.eval(passed[-1:], state.evaluated())
            held |= state.moments
        state.moments = {}
        self.held.append(held)
        self.streams = passed
