"""The prediction head in eight bits a weight, for drafts alone.

A draft reads the whole head, of V4-Flash 1.06 GB in bfloat16 beside 0.26 GB of its MTP block, and
is a guess whatever it is read from. In eight bits it is 0.60 GB. The model's own logits come from
its own head, so that replies stay what they are and only the share of right guesses may change.
"""

from typing import Final

import mlx.core as mx

from dsv4_mlx.model import matmul
from dsv4_mlx.model.layers import Linear
from dsv4_mlx.model.packed import Packed, Packing
from metal_kernels.ops import Ops

BITS: Final = 8
GROUP: Final = 64


class DraftHead:
    """A copy of a dense head [V, D], packed; not a part of the model's parameters."""

    def __init__(self, head: Linear, ops: Ops) -> None:
        words, scales, biases = mx.quantize(head.weight, group_size=GROUP, bits=BITS)
        wide = scales.astype(mx.float32), biases.astype(mx.float32)  # as affine weights are loaded
        mx.eval(words, *wide)
        self.weight, self._ops = Packed(words, *wide, Packing(GROUP, BITS, "affine")), ops

    @property
    def nbytes(self) -> int:
        """Bytes of it, which a draft reads."""
        packed = self.weight
        biases = 0 if packed.biases is None else packed.biases.nbytes
        return packed.weight.nbytes + packed.scales.nbytes + biases

    def __call__(self, x: mx.array) -> mx.array:
        """Hidden states [..., D] -> logits [..., V] float32."""
        return matmul.product(x, self.weight, self._ops)


def may_be_packed(head: Linear) -> bool:
    """Whether a copy in eight bits would be smaller: of a dense head of whole groups."""
    return head.packing is None and head.weight.shape[-1] % GROUP == 0
