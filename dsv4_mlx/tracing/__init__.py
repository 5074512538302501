"""The graph of one decoded token as data, for any config, backend and context, on any machine.

`mx.export_function` calls back with every primitive it meets. Weights and cache are inputs of the
exported function and are never materialised, so that the largest release traces in seconds; Metal
kernels trace as `CustomKernel` with their text and geometry where there is no Metal. What MLX takes
apart on a machine without Metal, or cannot export, is traced as one node (see `stand_ins.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.tracing.stand_ins import one_node_each
from dsv4_mlx.unloaded import cache_after, place_zeros

if TYPE_CHECKING:
    from dsv4_mlx.cache import LayerCache
    from dsv4_mlx.model.v4 import Model
    from dsv4_mlx.weights.parameters import ParameterPlan
    from metal_kernels.backend import Backend


def decode_graph(
    config: DeepseekV4Config,
    *,
    backend: "Backend" = "metal",
    context: int,
    batch: int = 1,
    tokens: int = 1,
    compiled: bool = False,
    exact_rows: int = 1,
) -> list[dict[str, Any]]:
    """What `mx.export_function` says of one greedy token after `context` tokens, in its order.

    `tokens` above one are a chunk of a prompt, whose last token's logits are asked for. `compiled`
    is the token as `Model.compiled_step` replays it, before MLX fuses elementwise neighbours, and
    `exact_rows` what a plan has (see `Ops`).

    `batch` timelines of equal length. The first callbacks name inputs, keywords (the paths of all
    weights and cache arrays, `model.…` and `cache.<layer>.…`), outputs and constants; then comes
    one per primitive, `{"type": "primitive", "name", "arguments", "inputs", "outputs"}`.
    """
    from dsv4_mlx.cache import evaluated

    model, cache = traced_model(config, backend, context, batch, exact_rows=exact_rows)
    stepping = model.compiled_step() if compiled else model

    def step(tokens: mx.array) -> list[mx.array]:
        token = stepping.last_logits(tokens, cache).argmax(-1)
        return [token, *evaluated(cache)]

    return trace(step, mx.zeros((batch, tokens), mx.int32), model=model, cache=cache)


def block_graph(
    config: DeepseekV4Config, *, backend: "Backend" = "metal", context: int, rows: int
) -> list[dict[str, Any]]:
    """The same of a pass that verifies drafts: `rows` tokens, one drawn and the drafts after it.

    All of them turn out to be right, so that their rows are written to the rings.
    """
    from dsv4_mlx.cache import begin, commit, evaluated

    model, cache = traced_model(config, backend, context, exact_rows=rows)

    def step(tokens: mx.array) -> list[mx.array]:
        begin(cache)
        drawn = model(tokens, cache).argmax(-1)
        commit(cache, rows)
        return [drawn, *evaluated(cache)]

    return trace(step, mx.zeros((1, rows), mx.int32), model=model, cache=cache)


def round_graph(
    config: DeepseekV4Config,
    *,
    backend: "Backend" = "metal",
    contexts: Sequence[int],
) -> list[dict[str, Any]]:
    """The same of a round: a token of each of several timelines, after so many tokens each."""
    from dsv4_mlx.cache import evaluated, side_by_side

    model, first = traced_model(config, backend, contexts[0], exact_rows=len(contexts))
    caches = [first, *(cache_after(model, context, 1) for context in contexts[1:])]

    def step(tokens: mx.array) -> list[mx.array]:
        drawn = model(tokens, side_by_side(caches)).argmax(-1)
        return [drawn, *(array for cache in caches for array in evaluated(cache))]

    return trace(step, mx.zeros((1, len(contexts)), mx.int32), model=model, cache=caches)


def traced_model(
    config: DeepseekV4Config,
    backend: "Backend",
    context: int,
    batch: int = 1,
    *,
    exact_rows: int = 1,
) -> "tuple[Model, list[LayerCache]]":
    """A model whose weights are only shapes, and its cache after `context` tokens, likewise."""
    from dsv4_mlx.model.v4 import Model
    from metal_kernels import registry
    from metal_kernels.backend import BACKENDS

    if backend not in BACKENDS:
        raise ValueError(f"expected a backend out of {', '.join(BACKENDS)} but found {backend!r}")
    model = Model(config, plan=registry.bind(backend, exact_rows=exact_rows))
    place_weights(model)
    return model, cache_after(model, context, batch)


def trace(
    step: Callable[[mx.array], list[mx.array]], tokens: mx.array, **holders: Any
) -> list[dict[str, Any]]:
    """The callbacks of `step(tokens)`; all arrays that `holders` reach become inputs, by path."""
    places = [
        place for name, holder in holders.items() for place in each_array(holder, name, set())
    ]
    # Several places may hold one array (a joined weight and its views); they go on sharing it.
    inputs: dict[int, tuple[str, mx.array]] = {}
    for place in places:
        inputs.setdefault(id(place.array), (place.path, place.array))

    def exported(tokens: mx.array, **traced: mx.array) -> list[mx.array]:
        for place in places:
            place.put(traced[inputs[id(place.array)][0]])
        return step(tokens)

    seen: list[dict[str, Any]] = []
    with one_node_each():
        mx.export_function(seen.append, exported, (tokens,), dict(inputs.values()))
    return seen


@dataclass(frozen=True)
class HeldArray:
    """Where a Python object holds an array."""

    path: str
    array: mx.array
    put: Callable[[mx.array], None]


def each_array(holder: Any, path: str, visited: set[int]) -> Iterator[HeldArray]:
    """Every array reachable from `holder` through items and attributes, each place once."""
    if id(holder) in visited:
        return
    visited.add(id(holder))
    for key, value, put in _parts(holder):
        inner = f"{path}.{key}"
        if isinstance(value, mx.array):
            yield HeldArray(inner, value, put)
        elif not isinstance(value, type) and _may_hold_arrays(value):
            yield from each_array(value, inner, visited)


def _parts(holder: Any) -> Iterator[tuple[Any, Any, Callable[[mx.array], None]]]:
    if isinstance(holder, dict):
        for key, value in list(holder.items()):
            yield key, value, partial(dict.__setitem__, holder, key)  # nobody is told
    elif isinstance(holder, list):
        for index, value in enumerate(holder):
            yield index, value, partial(list.__setitem__, holder, index)
    elif isinstance(holder, tuple):
        for index, value in enumerate(holder):
            yield index, value, _cannot_put
    for key, value in list(getattr(holder, "__dict__", {}).items()):
        # Also into frozen dataclasses.
        yield key, value, partial(object.__setattr__, holder, key)


def _cannot_put(new: mx.array) -> None:
    raise TypeError("expected no array as an element of a tuple, which a trace cannot replace")


def _may_hold_arrays(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return True
    # Our own objects and those of the model that is compared, no functions and no modules.
    return hasattr(value, "__dict__") and not callable(getattr(value, "__get__", None))


# Weights and cache that are only shapes


def place_weights(model: "Model") -> None:
    """Give `model` unevaluated weights as the loader holds a release of this config for a GPU."""
    place_zeros(model, release_plan(model.config), "BF16")


@lru_cache(maxsize=2)  # Flash has 70,000 tensors to match, and is traced many times in a process
def release_plan(config: DeepseekV4Config) -> "ParameterPlan":
    """The loader's plan for the files of a release; scales that are powers of two stay packed.

    One object for all who ask, to be read only."""
    from dsv4_mlx.files.safetensors_files import TensorEntry
    from dsv4_mlx.release.tensors import checkpoint_tensors
    from dsv4_mlx.weights.checkpoint import Checkpoint
    from dsv4_mlx.weights.planning import plan_parameters

    tensors = {}
    for name, dtype, shape in checkpoint_tensors(config):
        dtype = "F8_E8M0" if name.endswith(".scale") else dtype
        tensors[name] = TensorEntry(name, dtype, shape, Path("release"), 0, 0)
    return plan_parameters(Checkpoint(Path("release"), {}, config, tensors))
