"""One token of one timeline by a graph that is built once and replayed.

What changes from token to token is an argument of the graph (see `cache.moving`), and the shapes
change only when a buffer of entries grows. What a token does beyond that decides which graph it is:
which windows it closes, whether indexers select, and whether somebody drafts from it. A call that
fits no graph, of several tokens or before the first entries, is the model's own; so is a block's,
whose windows close in too many ways. A round, of a token of each of several timelines, has a graph
once it comes again: of timelines that decode together most do, four tokens later. Engram's rows in
memory are looked up in the graph; those of files are read before it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dsv4_mlx.cache.forms import kept_rows
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.cache.side_by_side import SideBySide, side_by_side
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.model.replayed_state import ReplayedArrays, changed, moving_state, put, taken

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model

_Kind = tuple[tuple[int, ...], bool, bool]
"""Ratios whose windows close, whether indexers select, and whether features are given."""
_Graph = Callable[..., Any]
_RoundKind = tuple[tuple[_Kind, ...], tuple[tuple[int, ...], ...]]
"""The same of every timeline of a round, and the rows that its buffers have room for."""
MOST_GRAPHS = 12
"""Graphs that are kept: of four timelines of other lengths, each with three kinds of tokens; and as
many of rounds."""
MOST_MET = 64
"""Kinds of rounds of which it is known that they were met."""


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
        self._rounds: dict[_RoundKind, _Graph] = {}
        self._met: dict[_RoundKind, None] = {}
        self._weights: list[mx.array] = []
        self._built: list[_Kind | tuple[_Kind, ...]] = []

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
            self._rounds.clear()
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
        held = [taken(state, ratio in kind[0]) for state, ratio in self._with_ratios(states)]
        key = kind, tuple(buffer.shape[1] for arrays in held for buffer in arrays[2:])
        graph = self._graphs.pop(key, None) or self._compiled(kind, position, place, tuple(rows))
        given, after = graph(tokens, place.leaves(), held, list(rows.values()))
        _keep(self._graphs, key, graph)  # only now: one whose building failed stays unfinished
        del held  # else no buffer could be written in place
        for (state, ratio), arrays in zip(self._with_ratios(states), after, strict=True):
            put(state, arrays, closes=ratio in kind[0])
        return given  # type: ignore[no-any-return]

    def logits_together(
        self, tokens: mx.array, caches: Sequence[list[LayerCache]], features: bool
    ) -> tuple[mx.array, mx.array | None]:
        """Logits [B, V] after a token [1, B] of each of B timelines, and the features of each."""
        found = [self._states(tokens[:, :1], cache) for cache in caches]
        states = [one for one in found if one is not None]
        if len(states) == len(caches) and not self._reads_files:
            kinds = tuple(self._kind(one[0].position, features) for one in states)
            if not self._share_what_closes(states, kinds):
                given = self._replayed_round(tokens, states, kinds)
                if given is not None:
                    return given[0][0], given[1] if features else None
        cache = side_by_side(caches)
        if not features:
            return self._model(tokens, cache)[0], None
        logits, made = self._model.logits_and_features(tokens, cache)
        return logits[0], made

    def _replayed_round(
        self, tokens: mx.array, states: list[list[LayerState]], kinds: tuple[_Kind, ...]
    ) -> ReplayedArrays | None:
        """Logits [1, B, V] and the features if they are asked for; None for a round that is met for
        the first time."""
        positions = [one[0].position for one in states]
        layers = [
            [(state, ratio in kind[0]) for state, ratio in self._with_ratios(one)]
            for one, kind in zip(states, kinds, strict=True)
        ]
        held = [[taken(state, closes) for state, closes in one] for one in layers]
        shapes = (tuple(buffer.shape[1] for arrays in one for buffer in arrays[2:]) for one in held)
        key = kinds, tuple(shapes)
        graph = self._rounds.pop(key, None)
        if graph is None and not self._is_met(key):
            return None
        places = [
            Moving.at(position, self._sizes, self._ratios, self._ropes) for position in positions
        ]
        graph = graph or self._compiled_round(kinds, positions, places)
        given, after = graph(tokens, [place.leaves() for place in places], held)
        _keep(self._rounds, key, graph)
        del held  # as in `_replayed`
        for one, arrays in zip(layers, after, strict=True):
            for (state, closes), own in zip(one, arrays, strict=True):
                put(state, own, closes=closes)
        return given  # type: ignore[no-any-return]

    def _is_met(self, key: _RoundKind) -> bool:
        """Whether such a round was met before; it is from now on."""
        known = key in self._met
        self._met[key] = self._met.pop(key, None)
        if len(self._met) > MOST_MET:
            del self._met[next(iter(self._met))]
        return known

    def _share_what_closes(self, states: list[list[LayerState]], kinds: tuple[_Kind, ...]) -> bool:
        """Whether a window closes in entries that two of the timelines hold together, as forks do:
        only one of them can append to them, and the other copies them first."""
        for layer, role in enumerate(self._model.config.layer_roles):
            if role.owns_entries and any(role.ratio in kind[0] for kind in kinds):
                pools = [pool.pool_id for one in states for pool in one[layer].pools()]
                if len(set(pools)) < len(pools):
                    return True
        return False

    def _compiled_round(
        self, kinds: tuple[_Kind, ...], positions: list[int], places: list[Moving]
    ) -> _Graph:
        """The graph of rounds like this one; as `_compiled`."""
        model, roles, built = self._model, self._model.config.layer_roles, self._built

        def step(
            tokens: mx.array, leaves: ReplayedArrays, held: ReplayedArrays
        ) -> tuple[ReplayedArrays, ReplayedArrays]:
            built.append(kinds)
            timelines = []
            for number, (position, place) in enumerate(zip(positions, places, strict=True)):
                moving, own = place.of(leaves[number]), zip(model.layers, held[number], strict=True)
                timelines.append(
                    [
                        moving_state(one, model.layout, arrays, position, moving)
                        for one, arrays in own
                    ]
                )
            rows = zip(*timelines, strict=True)
            cache: list[LayerCache] = [
                SideBySide(role, model.layout, list(row))
                for role, row in zip(roles, rows, strict=True)
            ]
            features = kinds[0][2]
            given = model.logits_and_features(tokens, cache) if features else [model(tokens, cache)]
            return list(given), [
                [
                    changed(state, role.owns_entries and role.ratio in kind[0])
                    for state, role in zip(states, roles, strict=True)
                ]
                for states, kind in zip(timelines, kinds, strict=True)
            ]

        return mx.compile(step)

    @property
    def _reads_files(self) -> bool:
        """Whether Engram's rows lie in files, which a graph does not wait for."""
        return any(one.source is not None for one in self._model.engrams().values())

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
            tokens: mx.array, leaves: ReplayedArrays, held: ReplayedArrays, rows: ReplayedArrays
        ) -> tuple[ReplayedArrays, ReplayedArrays]:
            built.append(kind)
            moving = place.of(leaves)
            states = [
                moving_state(layer, model.layout, arrays, position, moving)
                for layer, arrays in zip(model.layers, held, strict=True)
            ]
            cache = [LayerCache(r, model.layout, [s]) for r, s in zip(roles, states, strict=True)]
            found = dict(zip(from_files, rows, strict=True))
            if kind[2]:
                given = list(model.last_logits_and_features(tokens, cache, found))
            else:
                given = [model.last_logits(tokens, cache, found)]
            return given, [
                changed(state, role.owns_entries and role.ratio in kind[0])
                for state, role in zip(states, roles, strict=True)
            ]

        return mx.compile(step)


def _keep(graphs: dict[Any, _Graph], key: Any, graph: _Graph) -> None:
    """Keep a graph as the one used last."""
    graphs[key] = graph
    if len(graphs) > MOST_GRAPHS:
        del graphs[next(iter(graphs))]


def _weights(model: "Model") -> Iterator[mx.array]:
    parameters: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    return (array for _, array in parameters)
