"""How MLX would hand the launches of a traced graph to Metal: command buffers, and what waits.

Read off MLX's sources (0.32, metal/device.cpp and eval.cpp). After each primitive MLX ends the
command buffer once it has launched more than MLX_MAX_OPS_PER_BUFFER kernels, or once the arrays
that they were given, each memory counted once, have more than MLX_MAX_MB_PER_BUFFER Mi elements. It
lets the host be ten such buffers ahead. A launch waits for those that write what it reads. Nothing
here was seen on a GPU.
"""

from collections import defaultdict
from typing import NamedTuple

from benchmarks import counting
from benchmarks.counting import Graph
from dsv4_mlx.device.command_buffers import LIMITS


class Limits(NamedTuple):
    """What ends a command buffer: launches, and Mi elements."""

    launches: int
    elements: int


MLX_OWN = Limits(50, 50)
"""Of the Max and Ultra chips; others have 40 and 40."""
OURS = Limits(*map(int, LIMITS.values()))


def command_buffers(graph: Graph, limits: Limits) -> int:
    """Command buffers of one evaluation of the graph, in its order."""
    buffers, launches, elements = 1, 0, 0
    seen: set[str] = set()
    for count, node in counting.walked(graph):
        if count:
            launches += count
            for array in (*node.inputs, *node.outputs):
                elements += 0 if array.buffer in seen else array.extent
                seen.add(array.buffer)
        if launches > limits.launches or elements >> 20 > limits.elements:
            buffers, launches, elements = buffers + 1, 0, 0
            seen.clear()
    return buffers


_OFFSETS = ("DynamicSlice", "DynamicSliceUpdate")
"""Nodes whose last input is an array of starts, from which a kernel computes an offset."""


def longest_chain(graph: Graph) -> int:
    """Launches of which each waits for the one before: none of them can run beside another."""
    depth: defaultdict[str, int] = defaultdict(int)
    for item, (count, _) in zip(counting.primitives(graph), counting.walked(graph), strict=True):
        waited_for = [depth[name] for name, _, _ in item["inputs"]]
        if item["name"] in _OFFSETS:  # a launch of its own, that waits for the start alone
            waited_for[-1] += 1
            count -= 1
        before = max(waited_for, default=0)
        depth.update({name: before + count for name, _, _ in item["outputs"]})
    return max(depth.values(), default=0)
