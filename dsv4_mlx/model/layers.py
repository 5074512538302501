"""The small layers: linear maps that are dense or packed, norms and embeddings as parameters.

A matrix is whatever was loaded into it: `weight` alone is dense [out, in]; `weight` (uint32),
`scales` and perhaps `biases` are one of MLX's packed modes. `mlx.nn.quantize` switches a layer to
packed through `to_quantized`, as mlx-lm's loader does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from dsv4_mlx.model import matmul
from dsv4_mlx.model.matmul import Bounds
from dsv4_mlx.model.packed import Matrix, Packed, Packing
from metal_kernels.ops import Ops


class MatrixLayer(nn.Module):
    """A weight [..., out, in], dense or packed.

    What is made of the arrays, here and in a `Joined`, is kept until one of them is replaced.
    """

    _kept: Packed | None = None
    _joined: "Joined | None" = None

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = mx.zeros(shape)
        self._packing: Packing | None = None
        self._ops: Ops | None = None

    def bind(self, ops: Ops) -> None:
        """Multiply as the plan's backend does; without a plan MLX's default device decides."""
        self._ops = ops

    @property
    def packing(self) -> Packing | None:
        """How the weight is packed; None when it is dense."""
        return self._packing

    def pack_as(self, packing: Packing) -> None:
        """The arrays that the layer has are packed so."""
        self._packing = packing
        self._replaced()

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", **_: Any
    ) -> "MatrixLayer":
        """The same layer with its weight packed; the conversion itself stays lazy."""
        self._replaced()  # the new layer takes this one's place
        weight, scales, *biases = mx.quantize(
            self.weight, group_size=group_size, bits=bits, mode=mode
        )
        layer = type(self).__new__(type(self))
        nn.Module.__init__(layer)
        for name, value in self.__dict__.items():
            layer.__dict__.setdefault(name, value)
        layer._kept = layer._joined = None
        layer.weight, layer.scales = weight, scales
        if biases:
            layer.biases = biases[0]
        width = self.weight.shape[-1]
        bits = bits or weight.shape[-1] * 32 // width
        layer._packing = Packing(group_size or width // scales.shape[-1], bits, mode)
        return layer

    @property
    def is_joined(self) -> bool:
        """Whether its product is a part of a `Joined` one."""
        return self._joined is not None and self._joined.matrix is not None

    def matrix(self) -> Matrix:
        """The weight as products take it."""
        if self._packing is None:
            weight: mx.array = self["weight"]  # not through Module.__getattr__
            return weight
        if self._kept is None:
            self._kept = Packed(self.weight, self.scales, self.get("biases"), self._packing)
        return self._kept

    def __setitem__(self, name: str, array: mx.array) -> None:
        """Every way to replace an array ends here, `update` and assignment among them."""
        super().__setitem__(name, array)
        self._replaced()

    def _replaced(self) -> None:
        self._kept = None
        if self._joined is not None:
            self._joined.part()


class LayerOwner(nn.Module):
    """A module whose layers may be joined with others: one put into another's place parts them."""

    def __setitem__(self, name: str, value: Any) -> None:
        """Every way to replace a layer ends here too."""
        before = self.get(name)
        super().__setitem__(name, value)
        if isinstance(before, nn.Module) and before is not value:
            for module in before.modules():
                if isinstance(module, MatrixLayer):
                    module._replaced()


class Linear(MatrixLayer):
    """`x W^T`: [..., in] -> [..., out], float32."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(out_features, in_features)

    def __call__(self, x: mx.array) -> mx.array:
        return matmul.product(x, self.matrix(), self._ops)

    def take_rows(self, matrix: Matrix, start: int, stop: int) -> None:
        """Use rows [start, stop) of a larger weight of the same format, without a copy."""
        part = matrix[start:stop]
        if isinstance(part, mx.array):
            self.weight = part
            return
        self.weight, self.scales = part.weight, part.scales
        if part.biases is not None:
            self.biases = part.biases


class GroupedLinear(MatrixLayer):
    """One linear map per group, stored as consecutive rows: [..., g, in] -> [..., g, out]."""

    def __init__(self, groups: int, in_features: int, out_features: int):
        super().__init__(groups * out_features, in_features)

    def __call__(self, x: mx.array) -> mx.array:
        return matmul.grouped(x, self.matrix(), self._ops)


class ExpertsLinear(MatrixLayer):
    """One linear map per expert, stacked: weight [E, out, in]."""

    def __init__(self, experts: int, in_features: int, out_features: int):
        super().__init__(experts, out_features, in_features)

    def gathered(self, x: mx.array, rows: mx.array, experts: mx.array) -> mx.array:
        """Row `rows[r]` of x [M, in] times matrix `experts[r]` -> [R, out]."""
        return matmul.gathered(x, rows, experts, self.matrix(), self._ops)

    def chosen(self, x: mx.array, experts: mx.array) -> mx.array:
        """Rows x [M, 1, in] or [M, k, in] times the matrices `experts` [M, k] -> [M, k, out]."""
        return matmul.chosen(x, experts, self.matrix(), self._ops)

    def in_order(self, x: mx.array, experts: mx.array) -> mx.array:
        """Row r of x [R, in] times matrix `experts[r]`, the experts ascending -> [R, out]."""
        return matmul.in_order(x, experts, self.matrix())

    def by_blocks(self, x: mx.array, experts: mx.array, rows: mx.array | None = None) -> mx.array:
        """As `in_order`, of rows `rows` [R] of x where given; MXFP4 and an own kernel for it."""
        assert self._ops is not None
        return self._ops.expert_matmul(x, self.weight, self.scales, experts, rows)

    def sorted(self, x: mx.array, bounds: Bounds) -> mx.array:
        """Rows of x [R, in] sorted by expert, (expert, start, stop) each -> [R, out]."""
        return matmul.sorted_by_expert(x, bounds, self.matrix())


class Joined:
    """Linear layers of one input as one product, their outputs side by side.

    `layers` gives them as they are now: quantising puts other ones into their places. `join` lays
    their weights one after the other; the layers keep views of their rows, so nothing is stored
    twice. When a layer's array is replaced (training, quantising), the layer says so, and its
    `LayerOwner` when another layer takes its place: the joined weight is dropped and each layer is
    multiplied by itself.
    """

    def __init__(self, layers: Callable[[], Sequence[Linear]]):
        self._layers = layers
        self._matrix: Matrix | None = None
        self._ops: Ops | None = None

    @property
    def matrix(self) -> Matrix | None:
        """The joined weight; None before `join`."""
        return self._matrix

    def __call__(self, x: mx.array) -> mx.array:
        if self._matrix is not None:
            return matmul.product(x, self._matrix, self._ops)
        return mx.concatenate([layer(x) for layer in self._layers()], axis=-1)

    def join(self) -> list[mx.array]:
        """Join the weights as they are now, and give the layers' new arrays, unevaluated.

        Layers stored in different formats stay apart.
        """
        layers, start = self._layers(), 0
        joined = matmul.stacked_rows([layer.matrix() for layer in layers])
        if joined is None:
            self.part()
            return []
        for layer in layers:
            rows = layer.weight.shape[0]
            layer.take_rows(joined, start, start + rows)
            start += rows
        self._matrix, self._ops = joined, layers[0]._ops
        for layer in layers:
            layer._joined = self
        return _arrays(layers)

    def part(self) -> None:
        """Drop the joined weight."""
        self._matrix = None


def _arrays(layers: Sequence[Linear]) -> list[mx.array]:
    """Weights, scales and biases, as far as the layers have them."""
    names = ("weight", "scales", "biases")
    return [layer[name] for layer in layers for name in names if name in layer]


class Norm(nn.Module):
    """The weight of an RMSNorm; the arithmetic belongs to the kernel that fuses it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = mx.ones((width,))


class Embedding(nn.Module):
    """Rows by token id: int [B, S] -> float32 [B, S, D]."""

    def __init__(self, vocab_size: int, hidden_size: int):
        super().__init__()
        self.weight = mx.zeros((vocab_size, hidden_size))

    def __call__(self, tokens: mx.array) -> mx.array:
        return self.weight[tokens].astype(mx.float32)


def expert_bounds(experts: mx.array) -> tuple[mx.array, Bounds]:
    """Order that sorts flat expert ids, and (expert, start, stop) of every expert with rows.

    Reads the ids on the host, so it belongs to prefill on the CPU alone.
    """
    ids = np.array(experts, copy=False)
    order = np.argsort(ids, kind="stable").astype(np.int32)
    found, starts = np.unique(ids[order], return_index=True)
    stops = [*starts[1:], len(ids)]
    bounds = [(int(e), int(a), int(b)) for e, a, b in zip(found, starts, stops, strict=True)]
    return mx.array(order), bounds
