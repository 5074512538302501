"""Heads that from the first step look for what followed the same token before.

Finding a fact by its key takes two heads in a row: one hands each token the one before it, a later
one looks for the tokens whose handed-on token is its own (Olsson et al., "In-context Learning and
Induction Heads", 2022). Neither helps without the other, so that a small model finds them late or
not at all (docs/LOG.md). Written into the first weights, as Trockman and Kolter do with attention
("Mimetic Initialization of Self-Attention Layers", 2023), they are there to be improved.
"""

from __future__ import annotations

from math import cos, sin, sqrt

import mlx.core as mx
import numpy as np

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.muon import Parameters

_OFFSETS = (1, 2, 3)  # tokens back that heads of the first layer look; the first is looked up
_PAIRS = 4  # fastest rotations, which tell them apart
_CONSTANT = 4.0  # the first dim of every embedding; the others are of size 1
_KEY = 8.0  # a key's length in each of those pairs, before its norm
_GAIN = 3.0  # of what is handed on, so that it is as large as the token itself
_PLACE = 3.0  # how much a dim of an entry prefers one of the entry's tokens
_OTHER = 0.1  # of all else in the queries of these heads


def add_induction(config: DeepseekV4Config, parameters: Parameters) -> None:
    """Write the heads into `parameters`, as `nano_init` made them.

    Layer 0 hands on; later layers look it up, but for those whose entries hold more tokens than the
    window. In the last layer with entries, heads look at one place of an entry each.
    """
    heads = _InductionHeads(config, parameters)
    ratios = config.compress_ratios[: config.num_hidden_layers]
    with_entries = [
        layer for layer, ratio in enumerate(ratios) if 0 < ratio < config.sliding_window
    ]
    A, B = heads.hand_on()
    for layer, ratio in enumerate(ratios):
        if layer and ratio < config.sliding_window:
            heads.look_up(layer, A, B, by_place=layer == max(with_entries, default=-1))


class _InductionHeads:
    def __init__(self, config: DeepseekV4Config, parameters: Parameters):
        self._config, self._parameters = config, parameters
        self._width = config.head_dim
        self._free = config.head_dim - config.qk_rope_head_dim  # dims without position
        self._group = config.num_attention_heads // config.o_groups  # heads of a group

    def hand_on(self) -> tuple[np.ndarray, np.ndarray]:
        """Heads of layer 0 see the tokens at `_OFFSETS`; of the first, `B A x` is handed on.

        A [L, D] has orthonormal rows, B [D, L] columns; L is the rank of a group's outputs.
        """
        config = self._config
        table = self._array("model.embed_tokens")
        table[:, 0] = _CONSTANT
        self._put("model.embed_tokens", table)

        names = [f"model.layers.0.self_attn.{name}_proj" for name in ("q_a", "q_b", "kv")]
        q_a, q_b, kv = (self._array(name) for name in names)
        queries = q_b.reshape(config.num_attention_heads, self._width, -1)
        offsets = _OFFSETS[: self._group]
        queries[: len(offsets)] *= _OTHER
        # A constant of the latent, half as large as all else in it together.
        q_a[0] = 0
        q_a[0, 0] = sqrt(config.q_lora_rank) / (2 * _CONSTANT)
        for pair in range(min(_PAIRS, config.qk_rope_head_dim // 2)):
            row = self._free + 2 * pair
            angle = config.rope_theta ** (-2 * pair / config.qk_rope_head_dim)
            kv[row : row + 2] = 0
            kv[row, 0] = _KEY / _CONSTANT
            for head, offset in zip(queries, offsets, strict=False):
                head[row : row + 2] = 0
                head[row : row + 2, 0] = cos(offset * angle), -sin(offset * angle)
        kv[: self._free] = self._keys(kv)
        for name, array in zip(names, (q_a, q_b, kv), strict=True):
            self._put(name, array)
        return self._outputs(kv)

    def _outputs(self, kv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the first group of layer 0 writes: A and B of `hand_on`."""
        names = [f"model.layers.0.self_attn.{name}_proj" for name in ("o_a", "o_b")]
        o_a, o_b = (self._array(name) for name in names)
        rank = self._config.o_lora_rank
        A, B = _orthonormal(o_a[:rank, : kv.shape[1]]), _orthonormal(o_b[:, :rank])
        o_a[:rank, : self._free] = _GAIN * A @ kv[: self._free].T / (self._free / kv.shape[1])
        o_b[:, :rank] = B
        for name, array in zip(names, (o_a, o_b), strict=True):
            self._put(name, array)
        return A, B

    def look_up(self, layer: int, A: np.ndarray, B: np.ndarray, *, by_place: bool) -> None:
        """The first head of every group looks for its token among those handed on; `by_place` the
        heads of the first group each do so at their place of an entry."""
        prefix = f"model.layers.{layer}.self_attn"
        names = [f"{prefix}.{name}_proj" for name in ("q_a", "q_b", "kv")]
        q_a, q_b, kv = (self._array(name) for name in names)
        rank = min(len(A), len(q_a))
        q_a[:rank] = A[:rank]
        kv[: self._free] = self._keys(kv)
        found = kv[: self._free] @ B[:, :rank]
        heads = q_b.reshape(self._config.num_attention_heads, self._width, -1)
        for head in heads[self._group if by_place else 0 :: self._group]:
            _ask(head, found)
        if by_place:
            self._ask_by_place(f"{prefix}.compressor.position_bias", heads, found)
        for name, array in zip(names, (q_a, q_b, kv), strict=True):
            self._put(name, array)
        compressor = f"{prefix}.compressor.kv_proj"
        if f"{compressor}.weight" in self._parameters:
            halves = len(self._array(compressor)) // self._width
            self._put(compressor, np.concatenate([kv] * halves))

    def _ask_by_place(self, bias: str, heads: np.ndarray, found: np.ndarray) -> None:
        """Dims of an entry are shared out among its tokens, those of the block before left out at
        first, and a head asks in the dims of one."""
        places = np.array(self._parameters[bias])
        dims = self._free // len(places)
        places[:, : places.shape[1] - self._width] = -_PLACE / 3
        for place, head in zip(range(len(places)), heads[: self._group], strict=False):
            own = slice(place * dims, (place + 1) * dims)
            places[place, -self._width :][own] = _PLACE
            _ask(head, found, own)
        self._parameters[bias] = mx.array(places)

    def _keys(self, kv: np.ndarray) -> np.ndarray:
        """The dims without position of kv [K, D], made orthonormal so that keys keep the angles
        between tokens."""
        return _orthonormal(kv[: self._free]) * np.float32(sqrt(self._free / kv.shape[1]))

    def _array(self, name: str) -> np.ndarray:
        return np.array(self._parameters[f"{name}.weight"])

    def _put(self, name: str, array: np.ndarray) -> None:
        self._parameters[f"{name}.weight"] = mx.array(array)


def _ask(head: np.ndarray, found: np.ndarray, dims: slice = slice(None)) -> None:
    """Queries [K, L] of a head become `found` [free, rank] in `dims`, and little else."""
    head *= _OTHER
    head[: len(found)][dims, : found.shape[1]] = found[dims]


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix whose rows or columns, the fewer of them, are orthonormal."""
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right
