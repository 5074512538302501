"""The experts' products with arrays of slots, of some of a call's rows at a time.

Each row's sums are those that it has where all experts lie in one array and all rows are multiplied
together: products are chosen by what the call is, not by how many rows or slots there are.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from dsv4_mlx.model.expert_rows import MLX_ROWS_PER_EXPERT
from dsv4_mlx.model.experts import Experts
from dsv4_mlx.model.layers import ExpertsLinear, expert_bounds
from dsv4_mlx.model.packed import Packing
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops

_Integers = npt.NDArray[Any]


def products_of(
    config: DeepseekV4Config,
    ops: Ops,
    arrays: Mapping[str, Mapping[str, mx.array]],
    packings: Mapping[str, Mapping[str, Any]],
) -> Experts:
    """Products with `arrays`, by matrix and field, which are packed as `packings` says."""
    experts = Experts(config, ops)
    for matrix, fields in arrays.items():
        layer = ExpertsLinear(1, 1, 1)
        for field, array in fields.items():
            layer[field] = array
        layer.pack_as(Packing(**packings[matrix]))
        layer.bind(ops)
        experts[matrix] = layer
    return experts


def multiplied(
    products: Experts,
    x: mx.array,
    pairs: _Integers,
    places: _Integers,
    shape: tuple[int, ...],
    weights: mx.array,
    shared: mx.array,
) -> tuple[mx.array, mx.array]:
    """Some pairs of a token and an expert, by the products that all pairs of a call take where
    no expert is missing -> [R, D], and the activated shared expert.

    x [M, D], weights [M, k] and `shape` (M, k) are the call's; `pairs` [R] number its M k pairs,
    and `places` [R] say where the expert of each lies.

    On a GPU that chooses by rows for each expert: of those there are in the model, not of
    slots. MLX's tiles from four on are left to it, whose sums for few slots are not known.
    """
    (M, k), order = shape, np.arange(pairs.size)
    multiply = _unsorted
    if M * k > products.most_unsorted:
        order = np.argsort(places, kind="stable")
        if products.on_cpu:
            multiply = _by_expert
        elif products.takes_blocks(M, k):
            multiply = _by_blocks
        elif M * k >= MLX_ROWS_PER_EXPERT * products.count:
            multiply = _by_tiles
    pairs = pairs[order]
    rows, scale = _on_device(pairs // k), weights.reshape(-1)[_on_device(pairs)]
    gate_up = multiply(products.gate_up_proj, x, _on_device(places[order]), rows)
    activated, shared = products.activate(gate_up, scale, shared)
    down = multiply(products.down_proj, activated, _on_device(places[order]), None)
    return down[_on_device(np.argsort(order))], shared


def _on_device(numbers: _Integers) -> mx.array:
    return mx.array(numbers.astype(np.uint32))


def _unsorted(
    layer: ExpertsLinear, x: mx.array, experts: mx.array, rows: mx.array | None
) -> mx.array:
    """Rows of x, all of them in order where `rows` is None, each times the matrix of its expert."""
    rows = mx.arange(experts.size, dtype=mx.uint32) if rows is None else rows
    return layer.gathered(x, rows, experts)


def _by_expert(
    layer: ExpertsLinear, x: mx.array, experts: mx.array, rows: mx.array | None
) -> mx.array:
    """The same of ascending experts, a product for each."""
    _, bounds = expert_bounds(experts)
    return layer.sorted(x if rows is None else x[rows], bounds)


def _by_blocks(
    layer: ExpertsLinear, x: mx.array, experts: mx.array, rows: mx.array | None
) -> mx.array:
    """The same by a kernel of ours."""
    return layer.by_blocks(x, experts, rows)


def _by_tiles(
    layer: ExpertsLinear, x: mx.array, experts: mx.array, rows: mx.array | None
) -> mx.array:
    """The same by MLX's kernel for sorted rows."""
    return layer.in_order(x if rows is None else x[rows], experts)
