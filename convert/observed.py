"""Matrix layers that add up the squares of what they are given, channel by channel."""

from typing import Any

import mlx.core as mx
import numpy as np

from convert.importance import Measured
from dsv4_mlx.model.layers import ExpertsLinear, GroupedLinear, MatrixLayer
from dsv4_mlx.model.matmul import Bounds


class Sums:
    """Squares of all inputs of one matrix so far: `blocks` of rows with inputs of their own."""

    def __init__(self, blocks: int, width: int):
        self._squares = np.zeros((blocks, width))
        self._rows = np.zeros(blocks, np.int64)

    def add(self, squares: mx.array, rows: mx.array | int) -> None:
        """float32 sums [blocks, in] of so many rows, [blocks] or the same for all; evaluates."""
        self._squares += np.array(squares, dtype=np.float64)
        self._rows += np.array(rows, dtype=np.int64)

    def measured(self) -> Measured:
        """What came together."""
        return Measured(self._squares, self._rows)


class Observed:
    """A linear layer, or one of groups, whose inputs are added to `sums`."""

    def __init__(self, layer: MatrixLayer, sums: Sums):
        self._layer: Any = layer
        self._sums = sums

    def __call__(self, x: mx.array) -> mx.array:
        """[..., in] or [..., g, in], as the layer takes it."""
        see(self._sums, x, x.shape[-2] if isinstance(self._layer, GroupedLinear) else 1)
        product: mx.array = self._layer(x)
        return product


def see(sums: Sums, x: mx.array, groups: int = 1) -> None:
    """Add the rows of x [..., in], or of every group of x [..., g, in]."""
    rows = x.astype(mx.float32).reshape(-1, groups, x.shape[-1])
    sums.add((rows * rows).sum(0), rows.shape[0])


class ObservedExperts:
    """Stacked experts; a row counts for the expert that it is multiplied with."""

    def __init__(self, layer: ExpertsLinear, sums: Sums):
        self._layer, self._sums = layer, sums

    def gathered(self, x: mx.array, rows: mx.array, experts: mx.array) -> mx.array:
        self._see(x[rows], experts)
        return self._layer.gathered(x, rows, experts)

    def chosen(self, x: mx.array, experts: mx.array) -> mx.array:
        M, k = experts.shape
        self._see(mx.broadcast_to(x, (M, k, x.shape[-1])), experts)
        return self._layer.chosen(x, experts)

    def in_order(self, x: mx.array, experts: mx.array) -> mx.array:
        self._see(x, experts)
        return self._layer.in_order(x, experts)

    def sorted(self, x: mx.array, bounds: Bounds) -> mx.array:
        counts = [stop - start for _, start, stop in bounds]
        self._see(x, mx.array(np.repeat([expert for expert, _, _ in bounds], counts)))
        return self._layer.sorted(x, bounds)

    def _see(self, x: mx.array, experts: mx.array) -> None:
        """Rows [..., in] and the expert of each; one product adds them up by expert."""
        rows = x.astype(mx.float32).reshape(-1, x.shape[-1])
        count = self._layer.weight.shape[0]
        belongs = mx.arange(count)[:, None] == experts.reshape(1, -1).astype(mx.int32)
        self._sums.add(belongs.astype(mx.float32) @ (rows * rows), belongs.sum(-1))


def observe(layer: MatrixLayer, sums: Sums) -> Observed | ObservedExperts:
    """The stand-in for a layer."""
    kind = ObservedExperts if isinstance(layer, ExpertsLinear) else Observed
    return kind(layer, sums)  # type: ignore[arg-type]
