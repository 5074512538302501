"""One token of one timeline by a graph that is built once and replayed.

What changes from token to token is an argument of the graph (see `cache.moving`), and the shapes
change only when a buffer of entries grows. What a token does beyond that decides which graph it is:
which windows it closes, and whether indexers select. A call that fits no graph, of several tokens
or timelines or before the first entries, is the model's own.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.entries import Entries, MovingEntries
from dsv4_mlx.cache.forms import kept_rows
from dsv4_mlx.cache.layer import LayerCache, LayerState
from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.model.v4 import Model

_Arrays = list[Any]
_Kind = tuple[tuple[int, ...], bool]
"""Ratios whose windows close, and whether indexers select."""


class CompiledStep:
    """Logits after one token, as `Model.last_logits` gives them, and the same change of the cache.

    The graph holds the model's weights as they are when it is built: a model whose weights change
    needs a new step.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        roles = model.config.layer_roles
        self._ratios = sorted({role.ratio for role in roles if role.owns_entries})
        self._sizes = sorted(
            {model.config.sliding_window} | {kept_rows(r) for r in roles if r.owns_entries}
        )
        self._ropes = list(dict.fromkeys(layer.self_attn.rope for layer in model.layers))
        compressors = [layer.self_attn.compressor for layer in model.layers]
        self._selecting = next((c for c in compressors if c is not None and c.indexer), None)
        self._graphs: dict[_Kind, Callable[..., Any]] = {}
        self.traces = 0
        """How often a graph was built."""

    def last_logits(self, tokens: mx.array, cache: list[LayerCache]) -> mx.array:
        """Token ids [B, S] -> logits after the last of them [B, V] float32."""
        states = self._states(tokens, cache)
        if states is None:
            return self._model.last_logits(tokens, cache)
        position = states[0].position
        kind = self._kind(position)
        place = Moving.at(position, self._sizes, self._ratios, self._ropes)
        held = [_taken(state, ratio in kind[0]) for state, ratio in self._with_ratios(states)]
        graph = self._graphs.get(kind) or self._compiled(kind, position, place)
        logits, changed = graph(tokens, place.leaves(), held)
        del held  # else no buffer could be written in place
        for (state, ratio), arrays in zip(self._with_ratios(states), changed, strict=True):
            _put(state, arrays, closes=ratio in kind[0])
        return logits  # type: ignore[no-any-return]

    def _states(self, tokens: mx.array, cache: list[LayerCache]) -> list[LayerState] | None:
        """The timeline's layers; None where the call fits no graph."""
        if tokens.shape != (1, 1) or not all(layer.is_plain for layer in cache):
            return None
        states = [layer.rows[0] for layer in cache]
        complete = all(
            state.window is not None
            and not state.moments
            and all(len(pool) for pool in state.pools())
            for state in states
        )
        return states if complete else None

    def _kind(self, position: int) -> _Kind:
        closing = tuple(ratio for ratio in self._ratios if (position + 1) % ratio == 0)
        selecting = self._selecting
        return closing, selecting is not None and selecting.selects(position + 1)

    def _with_ratios(self, states: list[LayerState]) -> list[tuple[LayerState, int]]:
        roles = self._model.config.layer_roles
        return [(s, r.ratio if r.owns_entries else 0) for s, r in zip(states, roles, strict=True)]

    def _compiled(self, kind: _Kind, position: int, place: Moving) -> Callable[..., Any]:
        """The graph of tokens like the one at `position`; it is built when it is first called."""
        model, roles = self._model, self._model.config.layer_roles

        def step(tokens: mx.array, leaves: _Arrays, held: _Arrays) -> tuple[mx.array, _Arrays]:
            self.traces += 1
            moving = place.of(leaves)
            states = [
                _moving_state(model, arrays, role.ratio, position, moving)
                for arrays, role in zip(held, roles, strict=True)
            ]
            cache = [LayerCache(r, model.layout, [s]) for r, s in zip(roles, states, strict=True)]
            logits = model.last_logits(tokens, cache)
            return logits, [
                _changed(s, s_ratio in kind[0]) for s, s_ratio in self._with_ratios(states)
            ]

        graph: Callable[..., Any] = mx.compile(step)
        self._graphs[kind] = graph
        return graph


def _taken(state: LayerState, closes: bool) -> _Arrays:
    """The arrays of a layer: rings, then whole buffers, with room where a window closes."""
    return [*state.fixed(), *(pool.whole(int(closes)) for pool in state.pools())]


def _moving_state(
    model: Model, arrays: _Arrays, ratio: int, position: int, moving: Moving
) -> LayerState:
    state = LayerState(model.layout, position=position, moving=moving, window=arrays[0])
    if len(arrays) > 1:
        state.open_rows = arrays[1]
        pools = [MovingEntries(buffer, moving.windows[ratio]) for buffer in arrays[2:]]
        state.entries, state.keys = pools[0], pools[1] if len(pools) > 1 else None
    return state


def _changed(state: LayerState, closes: bool) -> _Arrays:
    """What a token changes of a layer: its rings, and its buffers where a window closes."""
    buffers = [pool.buffer() for pool in state.pools()] if closes else []
    return [*state.fixed(), *buffers]


def _put(state: LayerState, arrays: _Arrays, *, closes: bool) -> None:
    state.window = arrays[0]
    if state.open_rows is not None:
        state.open_rows = arrays[1]
    if closes:
        pools: tuple[Entries, ...] = state.pools()
        for pool, buffer in zip(pools, arrays[2:], strict=True):
            pool.put(buffer, 1)
    state.position += 1
