"""The products of few rows that a model makes: one of each form to compare, and some to time.

What is read of weights is bounded, so that a load stays short.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Final, Literal

import mlx.core as mx
import numpy as np

from dsv4_mlx.device.row_finding import MOST_ROWS
from dsv4_mlx.exact_rows.finding import rows_alike
from dsv4_mlx.model import matmul
from dsv4_mlx.model.decoder_layer import DecoderLayer
from dsv4_mlx.model.layers import ExpertsLinear, GroupedLinear, MatrixLayer
from dsv4_mlx.model.packed import Matrix, Packed
from dsv4_mlx.model.v4 import Model
from metal_kernels.ops import Ops

MOST_BYTES: Final = 10**9
"""Bytes of weights that all tests of products may read."""
_COMPARED_BYTES: Final = 1 << 24
"""Of one weight, to compare rows by; a row's numbers do not depend on the outputs beside it."""
_FEW_EXPERTS = 3  # so many first choices, so that eight tokens share experts


class WeightReads:
    """Bytes of weights that are read, each weight once, up to a limit."""

    def __init__(self, limit: int = MOST_BYTES) -> None:
        self.limit, self.nbytes = limit, 0

    def allow(self, nbytes: int) -> bool:
        """Whether so many bytes more may be read; they count if so."""
        if self.nbytes + nbytes > self.limit:
            return False
        self.nbytes += nbytes
        return True


@dataclass(frozen=True)
class FewRows:
    """A product of few rows: of one weight, of one for each group, or of experts."""

    name: str
    kind: Literal["rows", "groups", "experts"]
    matrix: Matrix
    parts: int = 1
    """Groups, or experts of a token."""
    each: bool = False
    """Whether a token has a row of its own for each of its experts."""

    @property
    def form(self) -> tuple[object, ...]:
        """What decides the numbers of a row: products that share it are tried once."""
        if isinstance(self.matrix, Packed):
            stored: tuple[object, ...] = (self.matrix.packing, self.matrix.scales.dtype)
        else:
            stored = (self.matrix.dtype, self.outputs)
        return (self.kind, self.width, self.parts, self.each, *stored)

    @property
    def width(self) -> int:
        """Inputs of a row."""
        if isinstance(self.matrix, Packed):
            return self.matrix.weight.shape[-1] * 32 // self.matrix.packing.bits
        return self.matrix.shape[-1]

    @property
    def outputs(self) -> int:
        """Rows of the weight, of one expert's."""
        weight = self.matrix.weight if isinstance(self.matrix, Packed) else self.matrix
        return int(weight.shape[-2])

    def read_bytes(self, tokens: int) -> int:
        """What the product of so many tokens reads of its weight."""
        whole = sum(one.nbytes for one in _arrays(self.matrix))
        if self.kind != "experts":
            return whole
        experts = int(_arrays(self.matrix)[0].shape[0])
        met = min(experts, self.parts + min(tokens, _FEW_EXPERTS) - 1)
        return whole * met // experts

    def part(self, nbytes: int) -> "FewRows":
        """The same with so many bytes of its outputs, where it has more and can be cut, or with a
        few experts of each token."""
        if self.kind == "experts":
            return replace(self, parts=min(self.parts, _FEW_EXPERTS))
        row = sum(one.nbytes for one in _arrays(self.matrix)) // prod(self._rows)
        outputs = max(512, nbytes // row)
        if self.kind != "rows" or outputs >= self.outputs:
            return self
        return replace(self, matrix=self.matrix[:outputs])

    def input(self, tokens: int) -> mx.array:
        """Random rows [tokens, parts of the input, in]."""
        parts = self.parts if self.each or self.kind == "groups" else 1
        return mx.random.normal((tokens, parts, self.width), key=mx.random.key(tokens))

    def of(self, x: mx.array, first: int, ops: Ops) -> mx.array:
        """The product of `input`'s rows from `first` on, as `x` has them: [n, ...] float32."""
        if self.kind == "rows":
            return matmul.product(x[:, 0], self.matrix, ops)
        if self.kind == "groups":
            return matmul.grouped(x, self.matrix, ops)
        experts = self._experts()[first : first + x.shape[0]]
        return matmul.chosen(x, experts, self.matrix, ops)

    @property
    def _rows(self) -> tuple[int, ...]:
        return tuple(_arrays(self.matrix)[0].shape[:-1])

    def _experts(self) -> mx.array:
        """Experts [8, k]: tokens share some, and have them in different orders."""
        count = self._rows[0]
        first = np.arange(MOST_ROWS)[:, None] % _FEW_EXPERTS
        ids = (first + np.arange(self.parts)) % count
        ids[1::2] = ids[1::2, ::-1]
        return mx.array(ids.astype(np.uint32))


def products(model: Model) -> tuple[list[list[FewRows]], list[FewRows]]:
    """The products of every layer, and those after the layers; of drafts none."""
    k = model.config.num_experts_per_tok
    groups = model.config.o_groups
    layers = [
        [*_of_layer(f"layers.{number}", layer, groups, k)]
        for number, layer in enumerate(model.layers)
    ]
    return layers, [FewRows("lm_head", "rows", model.lm_head.matrix())]


def _of_layer(name: str, layer: DecoderLayer, groups: int, k: int) -> Iterator[FewRows]:
    for number, joined in enumerate(layer.joined()):
        if joined.matrix is not None:
            yield FewRows(f"{name}.joined.{number}", "rows", joined.matrix)
    for inner, module in layer.named_modules():  # type: ignore[no-untyped-call]
        own = f"{name}.{inner}"
        if isinstance(module, GroupedLinear):
            yield FewRows(own, "groups", module.matrix(), groups)
        elif isinstance(module, ExpertsLinear):
            yield FewRows(own, "experts", module.matrix(), k, inner.endswith("down_proj"))
        elif isinstance(module, MatrixLayer) and not module.is_joined:
            yield FewRows(own, "rows", module.matrix())


def forms(model: Model) -> list[FewRows]:
    """One product of each form, cut to a size that is quick to compare."""
    layers, after = products(model)
    found: dict[tuple[object, ...], FewRows] = {}
    for one in [*(product for layer in layers for product in layer), *after]:
        found.setdefault(one.form, one)
    return [one.part(_COMPARED_BYTES) for one in found.values()]


def compared(chosen: Sequence[FewRows], ops: Ops, reads: WeightReads) -> dict[str, int]:
    """Of every product the rows that are as single ones, by its name.

    `ops` have exact rows. One for which no bytes are left is not compared and allows one row.
    """
    return {
        one.name: _alike(one, ops) if reads.allow(one.read_bytes(MOST_ROWS)) else 1
        for one in chosen
    }


def _alike(one: FewRows, ops: Ops) -> int:
    x = one.input(MOST_ROWS)
    return rows_alike(lambda first, count: one.of(x[first : first + count], first, ops))


def timed(model: Model, reads: WeightReads) -> list[FewRows]:
    """Packed products of whole layers, spread evenly over the model, as `reads` has room for.

    Where it has none for one layer, the products of one that it has room for.
    """
    every, _ = products(model)
    layers = [[one for one in layer if isinstance(one.matrix, Packed)] for layer in every]
    for count in range(len(layers), 0, -1):
        places = [(2 * number + 1) * len(layers) // (2 * count) for number in range(count)]
        found = [one for place in places for one in layers[place]]
        if reads.allow(sum(one.read_bytes(1) for one in found)):
            return found
    return [one for one in layers[len(layers) // 2] if reads.allow(one.read_bytes(1))]


def multiplied(products: Sequence[FewRows], inputs: Sequence[mx.array], ops: Ops) -> list[mx.array]:
    """The products of one row each, unevaluated."""
    return [one.of(x, 0, ops) for one, x in zip(products, inputs, strict=True)]


def _arrays(matrix: Matrix) -> list[mx.array]:
    if isinstance(matrix, mx.array):
        return [matrix]
    parts = (matrix.weight, matrix.scales, matrix.biases)
    return [one for one in parts if one is not None]
