"""One token of one timeline by a graph that is built once and replayed.

What changes from token to token is an argument of the graph (see `cache.moving`), and the shapes
change only when a buffer of entries grows. What a token does beyond that decides which graph it is:
which windows it closes, whether indexers select, and whether somebody drafts from it. A call that
fits no graph, of several tokens or timelines or before the first entries, is the model's own; so is
a block's, whose windows close in too many ways. Engram's rows in memory are looked up in the graph;
those of files are read before it runs.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dsv4_mlx.cache.entries import Entries, MovingEntries
from dsv4_mlx.cache.forms import kept_rows
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.cache.state import LayerState

if TYPE_CHECKING:
    from dsv4_mlx.model.decoder_layer import DecoderLayer
    from dsv4_mlx.model.v4 import Model

_Arrays = list[Any]
_Kind = tuple[tuple[int, ...], bool, bool]
"""Ratios whose windows close, whether indexers select, and whether features are given."""
_Graph = Callable[..., Any]
MOST_GRAPHS = 12
"""Graphs that are kept: of four timelines of other lengths, each with three kinds of tokens."""


class CompiledStep:
    """Logits after one token, as `Model.last_logits` gives them, and the same change of the cache;
    what drafts are made from too, where that is asked for.

    A graph holds the weights that the model had when it was built; `keep_up` notices others.
    """

    def __init__(self, model: "Model") -> None:
        self._model = model
        roles = model.config.layer_roles
        self._ratios = sorted({role.ratio for role in roles if role.owns_entries})
        self._sizes = sorted(
            {model.config.sliding_window} | {kept_rows(r) for r in roles if r.owns_entries}
        )
        self._ropes = list(dict.fromkeys(layer.self_attn.rope for layer in model.layers))
        compressors = [layer.self_attn.compressor for layer in model.layers]
        self._selecting = next((c for c in compressors if c is not None and c.indexer), None)
        # By kind and by the rows that buffers have room for; the one used last is at the end.
        self._graphs: dict[tuple[_Kind, tuple[int, ...]], _Graph] = {}
        self._weights: list[mx.array] = []
        self._built: list[_Kind] = []

    @property
    def traces(self) -> int:
        """How often a graph was built."""
        return len(self._built)

    def keep_up(self) -> None:
        """Forget the graphs of weights that the model has no longer; for the start of a reply."""
        weights = list(_weights(self._model))
        old = self._weights
        if len(weights) != len(old) or any(
            one is not other for one, other in zip(weights, old, strict=True)
        ):
            self._graphs.clear()
        self._weights = weights

    def last_logits(self, tokens: mx.array, cache: list[LayerCache]) -> mx.array:
        """Token ids [B, S] -> logits after the last of them [B, V] float32."""
        states = self._states(tokens, cache)
        if states is None:
            return self._model.last_logits(tokens, cache)
        return self._replayed(tokens, cache, states, False)[0]

    def last_logits_and_features(
        self, tokens: mx.array, cache: list[LayerCache]
    ) -> tuple[mx.array, mx.array]:
        """The same, and what drafts are made from, as the model's own call of this name gives."""
        states = self._states(tokens, cache)
        if states is None:
            return self._model.last_logits_and_features(tokens, cache)
        logits, features = self._replayed(tokens, cache, states, True)
        return logits, features

    def _replayed(
        self, tokens: mx.array, cache: list[LayerCache], states: list[LayerState], features: bool
    ) -> list[mx.array]:
        """Logits [1, V] after a token, and the features where they are asked for."""
        if tokens.dtype != mx.int32:  # ids of a prompt and drawn ones share a graph
            tokens = tokens.view(mx.int32) if tokens.dtype == mx.uint32 else tokens.astype(mx.int32)
        position = states[0].position
        kind = self._kind(position, features)
        place = Moving.at(position, self._sizes, self._ratios, self._ropes)
        rows = self._rows_of_files(tokens, cache)
        held = [_taken(state, ratio in kind[0]) for state, ratio in self._with_ratios(states)]
        key = kind, tuple(buffer.shape[1] for arrays in held for buffer in arrays[2:])
        graph = self._graphs.pop(key, None) or self._compiled(kind, position, place, tuple(rows))
        given, changed = graph(tokens, place.leaves(), held, list(rows.values()))
        self._graphs[key] = graph  # only now: one whose building failed would stay unfinished
        if len(self._graphs) > MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        del held  # else no buffer could be written in place
        for (state, ratio), arrays in zip(self._with_ratios(states), changed, strict=True):
            _put(state, arrays, closes=ratio in kind[0])
        return given  # type: ignore[no-any-return]

    def _states(self, tokens: mx.array, cache: list[LayerCache]) -> list[LayerState] | None:
        """The timeline's layers; None where the call fits no graph."""
        if tokens.shape != (1, 1) or not all(layer.is_plain for layer in cache):
            return None
        states = [layer.rows[0] for layer in cache]
        complete = all(
            state.window is not None
            and not state.moments
            and state.block is None
            and all(len(pool) for pool in state.pools())
            and (layer.engram is None or state.ids is not None)
            for state, layer in zip(states, self._model.layers, strict=True)
        )
        return states if complete else None

    def _rows_of_files(self, tokens: mx.array, cache: list[LayerCache]) -> dict[int, mx.array]:
        """What Engram looks up where tables stay in files, by layer: a graph waits for none, so
        all is asked for before it runs, and then waited for."""
        asked = {
            number: engram.look_up(tokens, cache[number])
            for number, engram in self._model.engrams().items()
            if engram.source is not None
        }
        found = {number: looked_up() for number, looked_up in asked.items()}
        return {number: rows for number, rows in found.items() if rows is not None}

    def _kind(self, position: int, features: bool) -> _Kind:
        closing = tuple(ratio for ratio in self._ratios if (position + 1) % ratio == 0)
        selecting = self._selecting
        return closing, selecting is not None and selecting.selects(position + 1), features

    def _with_ratios(self, states: list[LayerState]) -> list[tuple[LayerState, int]]:
        roles = self._model.config.layer_roles
        return [(s, r.ratio if r.owns_entries else 0) for s, r in zip(states, roles, strict=True)]

    def _compiled(
        self, kind: _Kind, position: int, place: Moving, from_files: tuple[int, ...]
    ) -> _Graph:
        """The graph of tokens like the one at `position`; it is built when it is first called.

        Engram's rows of the layers `from_files` are arguments.
        """
        # None of these is the step itself, which would hold the model in a circle.
        model, roles, built = self._model, self._model.config.layer_roles, self._built

        def step(
            tokens: mx.array, leaves: _Arrays, held: _Arrays, rows: _Arrays
        ) -> tuple[_Arrays, _Arrays]:
            built.append(kind)
            moving = place.of(leaves)
            states = [
                _moving_state(layer, model.layout, arrays, position, moving)
                for layer, arrays in zip(model.layers, held, strict=True)
            ]
            cache = [LayerCache(r, model.layout, [s]) for r, s in zip(roles, states, strict=True)]
            found = dict(zip(from_files, rows, strict=True))
            if kind[2]:
                given = list(model.last_logits_and_features(tokens, cache, found))
            else:
                given = [model.last_logits(tokens, cache, found)]
            return given, [
                _changed(state, role.owns_entries and role.ratio in kind[0])
                for state, role in zip(states, roles, strict=True)
            ]

        return mx.compile(step)


def _weights(model: "Model") -> Iterator[mx.array]:
    parameters: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    return (array for _, array in parameters)


def _taken(state: LayerState, closes: bool) -> _Arrays:
    """The arrays of a layer: rings, whole buffers, with room where a window closes, last ids."""
    return [*_rings(state), *(pool.whole(int(closes)) for pool in state.pools()), *_ids(state)]


def _rings(state: LayerState) -> _Arrays:
    return [state.window] if state.open_rows is None else [state.window, state.open_rows]


def _ids(state: LayerState) -> _Arrays:
    return [] if state.ids is None else [state.ids]


def _moving_state(
    layer: "DecoderLayer", layout: EntryLayout, arrays: _Arrays, position: int, moving: Moving
) -> LayerState:
    state = LayerState(layout, position=position, moving=moving, window=arrays[0])
    if layer.engram is not None:
        *arrays, state.ids = arrays
    if len(arrays) > 1:
        state.open_rows = arrays[1]
        window = moving.windows[layer.role.ratio]
        pools = [MovingEntries(buffer, window) for buffer in arrays[2:]]
        state.entries, state.keys = pools[0], pools[1] if len(pools) > 1 else None
    return state


def _changed(state: LayerState, closes: bool) -> _Arrays:
    """What a token changes of a layer: its rings, its buffers where a window closes, its last
    ids."""
    buffers = [pool.buffer() for pool in state.pools()] if closes else []
    return [*_rings(state), *buffers, *_ids(state)]


def _put(state: LayerState, arrays: _Arrays, *, closes: bool) -> None:
    state.window = arrays[0]
    if state.ids is not None:
        *arrays, state.ids = arrays
    if state.open_rows is not None:
        state.open_rows = arrays[1]
    if closes:
        pools: tuple[Entries, ...] = state.pools()
        for pool, buffer in zip(pools, arrays[2:], strict=True):
            pool.put(buffer, 1)
    state.position += 1
