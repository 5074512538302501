"""Small graphs for the tests of counting."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from benchmarks import counting
from dsv4_mlx.tracing import stand_ins


def traced(
    fun: Callable[..., Any], *inputs: mx.array, **keywords: mx.array
) -> list[dict[str, Any]]:
    """The callbacks of `fun`; keywords are inputs with paths."""
    seen: list[dict[str, Any]] = []
    with stand_ins.one_node_each():
        mx.export_function(seen.append, fun, inputs, keywords)
    return seen


def launches(fun: Callable[..., Any], *inputs: mx.array) -> dict[str, int]:
    """Launches by name of node, those without any left out."""
    return +counting.by_name(counting.counted(traced(fun, *inputs)))


def total(fun: Callable[..., Any], *inputs: mx.array) -> int:
    return sum(launches(fun, *inputs).values())
