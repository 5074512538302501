"""Launches and bytes of a traced graph, node by node, layer by layer.

Works on the callbacks of `mx.export_function` alone (see `dsv4_mlx.tracing`), so that the graph of
any model is counted the same way.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks import launch_table, layouts
from benchmarks.launch_rules import Node
from benchmarks.layouts import Layout

Graph = Sequence[dict[str, Any]]

BEFORE, AFTER = -1, 10**6
"""Layer of the embedding, and of what follows the last layer."""

_LAYER = re.compile(r"\b(?:layers|cache)\.(\d+)\.")
# What MLX appends to the name of a custom kernel: template values and the types of its arrays.
_TYPE = r"float|b?float16_t|bool_?|u?int(?:8|16|32|64)?(?:_t)?|-?\d+|true|false"
_TYPES_AND_SIZES = re.compile(rf"(?:_+(?:{_TYPE})[cs]?)+_*$")
_HEAD = re.compile(r"\b(?:lm_head|hc_head|model\.norm)\.")


@dataclass(frozen=True)
class Launched:
    """One node: what it is, its launches, the layer whose weights and cache it works for."""

    name: str
    launches: int
    layer: int


def counted(graph: Graph) -> list[Launched]:
    """Every primitive with its launches, in the order of the graph."""
    nodes = primitives(graph)
    counts = [count for count, _ in walked(graph)]
    names = [display_name(node) for node in nodes]
    layers = _layers(graph, nodes)
    return [Launched(*each) for each in zip(names, counts, layers, strict=True)]


def primitives(graph: Graph) -> list[dict[str, Any]]:
    """The nodes of a graph."""
    return [item for item in graph if item["type"] == "primitive"]


def by_layer(found: Iterable[Launched]) -> Counter[int]:
    """Launches of every layer; BEFORE and AFTER are the ends."""
    totals: Counter[int] = Counter()
    for one in found:
        totals[one.layer] += one.launches
    return totals


def by_name(found: Iterable[Launched]) -> Counter[str]:
    """Launches of every kind of node."""
    totals: Counter[str] = Counter()
    for one in found:
        totals[one.name] += one.launches
    return totals


def display_name(node: dict[str, Any]) -> str:
    """The primitive, or the name of a custom kernel."""
    if node["name"] != "CustomKernel":
        return str(node["name"])
    return _TYPES_AND_SIZES.sub("", str(node["arguments"][0]).removeprefix("custom_kernel_"))


def input_paths(graph: Graph) -> dict[str, str]:
    """Path of every array that is an input by keyword, by its name in the graph."""
    keywords = next(item["keywords"] for item in graph if item["type"] == "keyword_inputs")
    return {name: path for path, name in keywords}


def _sources(graph: Graph) -> Iterator[tuple[str, Layout]]:
    for item in graph:
        if item["type"] == "inputs":
            for name, shape, dtype in item["inputs"]:
                yield name, layouts.fresh(name, shape, dtype)
        elif item["type"] == "constants":
            for name, value in item["constants"]:
                yield name, layouts.fresh(name, value.shape, value.dtype)


class Walked(NamedTuple):
    """One primitive, with the layouts that its inputs have by then."""

    launches: int
    node: Node


def walked(graph: Graph) -> Iterator[Walked]:
    """Every primitive of a graph, in its order."""
    known = dict(_sources(graph))
    last_use = _last_uses(graph)
    for index, item in enumerate(primitives(graph)):
        inputs = [known[name] for name, _, _ in item["inputs"]]
        outputs = [layouts.fresh(*each) for each in item["outputs"]]
        donates = bool(inputs) and last_use[item["inputs"][0][0]] <= index
        node = Node(item["name"], item["arguments"], inputs, outputs, donates)
        count, laid_out = launch_table.launches(node)
        known |= {name: one for (name, _, _), one in zip(item["outputs"], laid_out, strict=True)}
        yield Walked(count, node)


_VIEWS = frozenset(
    name for row in launch_table.TABLE if row.launches.startswith("0") for name in row.names
)


_UPDATES = frozenset({"SliceUpdate", "DynamicSliceUpdate"})


def _last_uses(graph: Graph) -> dict[str, float]:
    """The last node that reads an array's memory, by the array's name; endless for outputs.

    Views read nothing themselves: whoever uses a view uses the memory. A copy made where a view was
    possible only makes this later than it is.
    """
    owner: dict[str, str] = {}
    last: defaultdict[str, float] = defaultdict(lambda: -1)
    for index, item in enumerate(primitives(graph)):
        for name, _, _ in item["inputs"]:
            last[owner.get(name, name)] = index
        if item["name"] in _VIEWS and item["inputs"]:
            for (output, _, _), (source, _, _) in zip(
                item["outputs"], _view_sources(item), strict=False
            ):
                owner[output] = owner.get(source, source)
    for item in graph:
        if item["type"] == "outputs":
            for name, _, _ in item["outputs"]:
                last[owner.get(name, name)] = float("inf")
        if item["type"] == "constants":
            for name, _ in item["constants"]:
                last[owner.get(name, name)] = float("inf")
    names = set(owner) | set(last)
    return {name: last[owner.get(name, name)] for name in names}


def _view_sources(item: dict[str, Any]) -> list[Any]:
    """The input that each output is a view of."""
    return item["inputs"][:1] * len(item["outputs"]) if item["name"] == "Split" else item["inputs"]


def _layers(graph: Graph, nodes: Sequence[dict[str, Any]]) -> list[int]:
    """The layer of each node: the last one of those it gets weights, cache or activations from.

    Nodes that read nothing but constants belong to the first layer that reads them.
    """
    unknown = -2
    label = {name: _layer_of(path) for name, path in input_paths(graph).items()}
    found = []
    for item in nodes:
        layer = max((label.get(name, unknown) for name, _, _ in item["inputs"]), default=unknown)
        label |= {name: layer for name, _, _ in item["outputs"]}
        found.append(layer)
    for index in range(len(nodes) - 1, -1, -1):
        if found[index] == unknown:
            found[index] = _first_reader(nodes, found, index)
    return found


def _first_reader(nodes: Sequence[dict[str, Any]], found: Sequence[int], index: int) -> int:
    outputs = {name for name, _, _ in nodes[index]["outputs"]}
    for later in range(index + 1, len(nodes)):
        if outputs & {name for name, _, _ in nodes[later]["inputs"]}:
            return found[later]
    return AFTER


def _layer_of(path: str) -> int:
    match = _LAYER.search(path)
    if match:
        return int(match[1])
    return AFTER if _HEAD.search(path) else BEFORE


# Bytes


@dataclass(frozen=True)
class Read:
    """An input that the token reads: its path, whole size, and the bytes read of it."""

    path: str
    layer: int
    nbytes: int


Share = Callable[[str, Layout, Node], int]
"""Bytes that a node reads of an input, given the path of the input and its layout."""


def reads(graph: Graph, share: Share) -> list[Read]:
    """What the launched kernels read of weights and cache, once per input.

    An input that several nodes read (the parts of a loop) counts with the largest of its readings.
    """
    paths, found = input_paths(graph), {}
    origin = dict(paths)
    for item, (count, node) in zip(primitives(graph), walked(graph), strict=True):
        for (name, _, _), source in zip(item["inputs"], node.inputs, strict=True):
            path = origin.get(name)
            if path is None:
                continue
            if count == 0:
                continue
            nbytes = share(path, source, node)
            if nbytes > found.get(path, Read(path, 0, -1)).nbytes:
                found[path] = Read(path, _layer_of(path), nbytes)
        if item["name"] in _VIEWS | _UPDATES and item["inputs"]:
            for (output, _, _), (source_name, _, _) in zip(
                item["outputs"], _view_sources(item), strict=False
            ):
                if source_name in origin:
                    origin[output] = origin[source_name]
    return list(found.values())


# Regions of mx.compile


def fused_launches(graph: Graph) -> int:
    """Launches of a graph that `mx.compile` runs, fused as far as it possibly could be.

    Elementwise nodes that feed each other become one kernel; MLX has limits of depth and of
    arguments besides, which are ignored here in favour of the program that is counted.
    """
    nodes = primitives(graph)
    fusable = {
        index: index
        for index, item in enumerate(nodes)
        if item["name"] in launch_table.ELEMENTWISE | {"Broadcast"}
    }
    producer = {name: index for index, item in enumerate(nodes) for name, _, _ in item["outputs"]}
    for index in fusable:
        for name, _, _ in nodes[index]["inputs"]:
            if producer.get(name) in fusable:
                fusable[_root(fusable, producer[name])] = _root(fusable, index)
    kernels = {_root(fusable, i) for i in fusable if nodes[i]["name"] != "Broadcast"}
    alone = (count for i, (count, _) in enumerate(walked(graph)) if i not in fusable)
    return len(kernels) + sum(alone)


def _root(parent: dict[int, int], index: int) -> int:
    while parent[index] != index:
        index = parent[index]
    return index
