"""The small layers: linear maps that are dense or packed, norms and embeddings as parameters.

A matrix is whatever was loaded into it: `weight` alone is dense [out, in]; `weight` (uint32),
`scales` and perhaps `biases` are one of MLX's packed modes. `mlx.nn.quantize` switches a layer to
packed through `to_quantized`, as mlx-lm's loader does.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from dsv4_mlx import matmul
from dsv4_mlx.matmul import Bounds, Matrix, Packed, Packing


class _Matrix(nn.Module):
    """A weight [..., out, in], dense or packed."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = mx.zeros(shape)
        self._packing: Packing | None = None

    @property
    def packing(self) -> Packing | None:
        """How the weight is packed; None when it is dense."""
        return self._packing

    def to_quantized(
        self, group_size: int | None = None, bits: int | None = None, mode: str = "affine", **_: Any
    ) -> "_Matrix":
        """The same layer with its weight packed; the conversion itself stays lazy."""
        weight, scales, *biases = mx.quantize(
            self.weight, group_size=group_size, bits=bits, mode=mode
        )
        layer = type(self).__new__(type(self))
        nn.Module.__init__(layer)
        for name, value in self.__dict__.items():
            layer.__dict__.setdefault(name, value)
        layer.weight, layer.scales = weight, scales
        if biases:
            layer.biases = biases[0]
        width = self.weight.shape[-1]
        bits = bits or weight.shape[-1] * 32 // width
        layer._packing = Packing(group_size or width // scales.shape[-1], bits, mode)
        return layer

    def _matrix(self) -> Matrix:
        if self._packing is None:
            return self.weight
        return Packed(self.weight, self.scales, self.get("biases"), self._packing)


class Linear(_Matrix):
    """`x W^T`: [..., in] -> [..., out], float32."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(out_features, in_features)

    def __call__(self, x: mx.array) -> mx.array:
        return matmul.product(x, self._matrix())


class GroupedLinear(_Matrix):
    """One linear map per group, stored as consecutive rows: [..., g, in] -> [..., g, out]."""

    def __init__(self, groups: int, in_features: int, out_features: int):
        super().__init__(groups * out_features, in_features)

    def __call__(self, x: mx.array) -> mx.array:
        return matmul.grouped(x, self._matrix())


class ExpertsLinear(_Matrix):
    """One linear map per expert, stacked: weight [E, out, in]."""

    def __init__(self, experts: int, in_features: int, out_features: int):
        super().__init__(experts, out_features, in_features)

    def gathered(self, x: mx.array, rows: mx.array, experts: mx.array) -> mx.array:
        """Row `rows[r]` of x [M, in] times matrix `experts[r]` -> [R, out]."""
        return matmul.gathered(x, rows, experts, self._matrix())

    def sorted(self, x: mx.array, bounds: Bounds) -> mx.array:
        """Rows of x [R, in] sorted by expert, (expert, start, stop) each -> [R, out]."""
        return matmul.sorted_by_expert(x, bounds, self._matrix())


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
