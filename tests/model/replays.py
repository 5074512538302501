"""`mx.compile` without a compiler: the first call records a graph, which the others replay.

MLX's own compiles on a CPU what it fuses, for a minute and more. What this one replays is what the
first call computed, with the constants that it had then, so that a number that should have been an
argument is as wrong here as there.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose arguments and outcome are trees of arrays, replayed where shapes agree."""
    graphs: dict[Any, Callable[[list[mx.array]], Any]] = {}

    def call(*arguments: Any) -> Any:
        named = tree_flatten(list(arguments))
        arrays = [array for _, array in named]
        key = tuple((name, array.shape, array.dtype) for name, array in named)
        if key not in graphs:
            graphs[key] = _replay(function, len(arguments), [name for name, _ in named], arrays)
        return graphs[key](arrays)

    return call


def _replay(
    function: Callable[..., Any], count: int, names: list[str], arrays: list[mx.array]
) -> Callable[[list[mx.array]], Any]:
    found: list[str] = []

    def flat(*given: mx.array) -> list[mx.array]:
        trees = tree_unflatten(list(zip(names, given, strict=True)))
        # An empty list at the end has no name.
        outcome = tree_flatten(function(*trees, *[[]] * (count - len(trees))))
        found[:] = [name for name, _ in outcome]
        return [array for _, array in outcome]

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "graph.mlxfn")
        mx.export_function(path, flat, *arrays)
        graph = mx.import_function(path)
    return lambda given: tree_unflatten(list(zip(found, graph(*given), strict=True)))
