"""A layer's attention in training: cacheless, dense products, and an indexer that learns.

`TrainedAttention` takes the place of the model's `Attention`, with the same parameters and, but for
the order of sums, the same output. Four ways of `indexing`:

    frozen    the indexer selects as it is, and does not learn: the model as it stands
    off       every closed entry is attended, the indexer takes no part
    dense     the same, while the indexer learns where attention goes: its warm-up
    sparse    attention sees the entries that the indexer selects, and it goes on learning
"""

from __future__ import annotations

import ctypes
from typing import Literal

import mlx.core as mx

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.model.attention import Attention
from dsv4_mlx.model.compression import Compression
from dsv4_mlx.model.indexer import Indexer
from dsv4_mlx.training import native, native_index, native_rows
from dsv4_mlx.training.absorbed_attention import HeadWeights, attend_heads
from dsv4_mlx.training.block_attention import BLOCK, Visibility, attend
from dsv4_mlx.training.index_scores import chosen_entries, closed, index_loss, index_scores, recall
from dsv4_mlx.training.native_attention import CAttention, Heads
from dsv4_mlx.training.packing import PackedEntries, SharedPrompts
from metal_kernels.shared.rotary import rotate

Indexing = Literal["frozen", "off", "dense", "sparse"]


class TrainedAttention(Attention):
    """Attention whose gradient is written by hand; `seen` holds what its indexer learned from."""

    indexing: Indexing = "frozen"
    packing: SharedPrompts | None = None
    """What the tokens of a call are, where they are packed ones [1, T] in the place of rows."""
    _seen: tuple[mx.array, mx.array, mx.array] | None

    @classmethod
    def take_over(cls, attention: Attention) -> TrainedAttention:
        """The same layer, parameters and all, computing as training does."""
        attention.__class__ = cls
        assert isinstance(attention, TrainedAttention)
        attention.forget()
        return attention

    @property
    def seen(self) -> tuple[mx.array, mx.array, mx.array] | None:
        """The indexer's loss in the last call, its recall of attention, and how many queries it
        was judged by; None without one."""
        return self._seen

    def remember(self, loss: mx.array, recalled: mx.array, queries: mx.array) -> None:
        """Have seen these."""
        self._seen = loss, recalled, queries

    def forget(self) -> None:
        """Have seen nothing."""
        self._seen = None

    def __call__(self, x: mx.array, cache: LayerCache) -> mx.array:
        """Normed input [B, S, D] -> [B, S, D] float32; `cache` is not used."""
        packing = self.packing
        if packing is None:
            return self._over_rows(x)
        if self._keeps_packed(packing):
            return self._over_packed(x, packing)
        return packing.packed(self._over_rows(packing.unpacked(x)))

    def _keeps_packed(self, packing: SharedPrompts) -> bool:
        """Whether the form in C does, and no query has to choose among its entries."""
        compression = self.compressor
        indexer = None if compression is None else compression.indexer
        asks = indexer is not None and self._asks(indexer, packing.longest)
        return self._library is not None and self._absorbs(self._rope_width) and not asks

    def _over_packed(self, x: mx.array, packing: SharedPrompts) -> mx.array:
        """Packed tokens [1, T, D] -> [1, T, D]: a prompt's rows and entries once for its group."""
        rotary = packing.rotary(self._rope)
        residual, kv = self._rows(x, rotary)
        entries, compression = None, self.compressor
        layout = packing.entries(0)
        if compression is not None and self._ratio <= packing.longest:
            overlaps = compression.position_bias.shape[-1] == 2 * compression.kv_norm.weight.size
            layout = packing.entries(self._ratio, overlaps)
            entries = _entries(compression, x, layout)
        visible = Visibility(self._window, self._ratio, segments=layout.segments)
        output, _ = self._attended(residual, kv, entries, visible, rotary, learns=False)
        return self.o_b_proj(output)

    def _over_rows(self, x: mx.array) -> mx.array:
        S = x.shape[1]
        cos, sin = self._rope.of(None, 0, S)
        residual, kv = self._rows(x, (cos, sin))
        entries = scores = chosen = None
        compression = self.compressor
        if compression is not None and self._ratio <= S:
            entries = _entries(compression, x)
            if compression.indexer is not None and self._asks(compression.indexer, S):
                scores = self._index_scores(compression.indexer, x, residual)
                if self.indexing != "dense":
                    chosen = self._best(scores, compression.indexer._topk)
        visible = Visibility(self._window, self._ratio, chosen)
        learns = scores is not None and self._learns
        output, mass = self._attended(residual, kv, entries, visible, (cos, sin), learns)
        if scores is not None and mass is not None:
            self._learn(scores, mass, chosen)
        return self.o_b_proj(output)

    def _rows(self, x: mx.array, rotary: tuple[mx.array, mx.array]) -> tuple[mx.array, mx.array]:
        """Residuals [B, S, L] and rotated rows [B, S, K] of tokens."""
        norms = (self.q_a_norm.weight, self.kv_norm.weight)
        library = self._library
        if library is not None:
            residual = native_rows.normed(library, self.q_a_proj(x), norms[0], self._eps)
            return residual, native_rows.normed(
                library, self.kv_proj(x), norms[1], self._eps, rotary
            )
        residual = mx.fast.rms_norm(self.q_a_proj(x), norms[0], self._eps)
        return residual, rotate(mx.fast.rms_norm(self.kv_proj(x), norms[1], self._eps), *rotary)

    def _attended(
        self,
        residual: mx.array,
        kv: mx.array,
        entries: mx.array | None,
        visible: Visibility,
        rotary: tuple[mx.array, mx.array],
        learns: bool,
    ) -> tuple[mx.array, mx.array | None]:
        """Attention over rotated rows [B, S, K]: [B, S, g O], and for an indexer that `learns` what
        each query paid to each entry [B, S, T]."""
        library = self._library
        absorbs = self._absorbs(self._rope_width)
        if absorbs and library is not None:
            matrices = self.q_b_proj.weight, self.o_a_proj.weight, self.sinks
            heads, rows = Heads(self._heads, self._groups, self._eps), (residual, kv, entries)
            output, mass = CAttention(library, rows, matrices, heads, visible, rotary, learns)()
            return output, None if mass is None else mx.stop_gradient(mass)
        core = self._absorbed if absorbs else self._direct
        output, paid = core(residual, kv, entries, visible, *rotary)
        if not learns or entries is None:
            return output, None
        return output, _mass(paid, (*residual.shape[:2], entries.shape[1]), self._ratio)

    def _absorbs(self, rope: int) -> bool:
        """Whether a head is wider than what its queries are made of and its outputs become."""
        longest = max(self.q_a_norm.weight.size, self.o_a_proj.weight.shape[0] // self._groups)
        return longest + rope < self._width

    def _direct(
        self,
        residual: mx.array,
        kv: mx.array,
        entries: mx.array | None,
        visible: Visibility,
        cos: mx.array,
        sin: mx.array,
    ) -> tuple[mx.array, list[mx.array]]:
        """Attention over rotated rows [B, S, K]: [B, S, g O], and what blocks paid [B, n, m]."""
        B, S, _ = residual.shape
        q = self.q_b_proj(residual).reshape(B, S, self._heads, self._width)
        scale = mx.rsqrt(mx.square(q).mean(axis=-1) + self._eps) * self._width**-0.5
        q = rotate(q, cos[:, None], sin[:, None])
        output, weights = attend(q, scale, kv, self.sinks, entries, visible)
        output = rotate(output, cos[:, None], sin[:, None], inverse=True)
        grouped = self.o_a_proj(output.reshape(B, S, self._groups, -1))
        return grouped.reshape(B, S, -1), [block.sum(axis=2) for block in weights]

    def _absorbed(
        self,
        residual: mx.array,
        kv: mx.array,
        entries: mx.array | None,
        visible: Visibility,
        cos: mx.array,
        sin: mx.array,
    ) -> tuple[mx.array, list[mx.array]]:
        """The same by `absorbed_attention`."""
        heads = HeadWeights(
            self.q_b_proj.weight,
            self.o_a_proj.weight,
            self._heads,
            self._groups,
            2 * cos.shape[-1],
        )
        squares = heads.squares(residual)
        output, weights = attend_heads(
            heads.queries(residual, cos, sin),
            mx.rsqrt(squares / self._width + self._eps) * self._width**-0.5,
            heads.keys(kv),
            self.sinks,
            None if entries is None else heads.keys(entries),
            visible,
        )
        return heads.outputs(output, cos, sin), [block.sum(axis=0) for block in weights]

    @property
    def _rope_width(self) -> int:
        return 2 * len(self._rope.frequencies)

    @property
    def _library(self) -> ctypes.CDLL | None:
        return native.library() if self._ops.backend == "cpu" else None

    @property
    def _learns(self) -> bool:
        return self.indexing in ("dense", "sparse")

    def _asks(self, indexer: Indexer, length: int) -> bool:
        """Whether the indexer has to score entries of so many tokens."""
        return self._learns or (self.indexing == "frozen" and indexer.selects(length))

    def _index_scores(self, indexer: Indexer, x: mx.array, residual: mx.array) -> mx.array:
        """Scores [B, S, T]; what the indexer reads of the model is a constant to it."""
        x, residual = mx.stop_gradient(x), mx.stop_gradient(residual)
        B, S, _ = x.shape
        cos, sin = self._rope.of(None, 0, S)
        weights = indexer.scorer.weights_proj(x) * indexer._scale
        keys = _entries(indexer, x)
        library = self._library
        if library is not None:
            queries = native_index.IndexQueries(residual, indexer.q_b_proj.weight, cos, sin)
            return native_index.scores(library, queries, weights, keys, indexer.ratio)
        q = indexer.q_b_proj(residual).reshape(B, S, self._index_heads, self._index_width)
        return index_scores(rotate(q, cos[:, None], sin[:, None]), weights, keys, indexer.ratio)

    def _best(self, scores: mx.array, k: int) -> mx.array:
        """The `k` best of scores [B, S, T]: bool [B, S, T]."""
        library = self._library
        if library is None:
            return chosen_entries(scores, k)
        return native_index.chosen_entries(library, scores, k)

    def _learn(self, scores: mx.array, mass: mx.array, chosen: mx.array | None) -> None:
        assert self.compressor is not None and self.compressor.indexer is not None
        library, (S, T) = self._library, scores.shape[1:]
        k = self.compressor.indexer._topk
        among = closed(S, T, self._ratio) if chosen is None else chosen
        among = mx.broadcast_to(among, scores.shape)
        if library is None:
            loss = index_loss(scores, mass, among)
        else:
            loss = native_index.index_loss(library, scores, mass, among)
        best = self._best(scores, k) if chosen is None else chosen
        judged = (mx.where(among, mass, 0.0).sum(axis=-1) > 0).sum()
        self.remember(loss, recall(scores, mass, best, k), judged)


def _entries(
    compressor: Compression | Indexer, x: mx.array, packed: PackedEntries | None = None
) -> mx.array:
    """All entries that the tokens of x [B, S, D] close: [B, T, d] float32; those of packed tokens
    in C alone."""
    S, ratio = x.shape[1], compressor.ratio
    library = native.library() if compressor._ops.backend == "cpu" else None
    cos, sin = compressor._rope.of(None, 0, S // ratio, ratio)
    if library is not None and compressor._options["rounding"] == "none":
        rows = compressor.kv_proj(x), compressor.gate_proj(x)
        given = (*rows, compressor.position_bias, compressor.kv_norm.weight)
        eps, places = compressor._options["eps"], None
        if packed is not None:
            places, cos, sin = packed.places, cos[packed.numbers], sin[packed.numbers]
        return native_rows.compressed(library, given, (cos, sin), eps, places)
    joined = mx.concatenate([compressor.kv_proj(x), compressor.gate_proj(x)], axis=-1)
    options = {**compressor._options, "kv_column": 0, "gate_column": joined.shape[-1] // 2}
    return compressor._ops.compress(
        joined,
        compressor.position_bias,
        compressor.kv_norm.weight,
        cos,
        sin,
        origin=0,
        first_window=0,
        windows=S // ratio,
        storage="float32",
        **options,
    )


def _mass(paid: list[mx.array], shape: tuple[int, ...], ratio: int) -> mx.array:
    """What each query paid to each entry, summed over heads: `shape` [B, S, T] float32."""
    _, S, T = shape
    rows = []
    for number, block in enumerate(paid):
        count = min(T, min(S, (number + 1) * BLOCK) // ratio)
        rows.append(mx.pad(block[..., block.shape[-1] - count :], [(0, 0), (0, 0), (0, T - count)]))
    return mx.stop_gradient(mx.concatenate(rows, axis=1))
