"""Attention: one latent head that is key and value, a window, and what compression keeps of the
rest (paper §2.3).

Projections run over the whole batch; everything that depends on a position runs per timeline, so
that a ragged batch is exactly its single runs.
"""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.cache import LayerCache, LayerState
from dsv4_mlx.compressor import Compressor
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.indexer import Indexer
from dsv4_mlx.layers import GroupedLinear, Linear, Norm
from dsv4_mlx.numerics import Numerics
from dsv4_mlx.rope import RotaryEmbedding
from metal_kernels.formats import round_bf16


class SlidingAttention(nn.Module):
    """Attention over the last W tokens with sinks; the other kinds add compressed entries."""

    ratio = 0

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: SimpleNamespace,
        rope: RotaryEmbedding,
    ):
        super().__init__()
        H, K, groups = config.num_attention_heads, config.head_dim, config.o_groups
        self.q_a_proj = Linear(config.hidden_size, config.q_lora_rank)
        self.q_a_norm = Norm(config.q_lora_rank)
        self.q_b_proj = Linear(config.q_lora_rank, H * K)
        self.kv_proj = Linear(config.hidden_size, K)
        self.kv_norm = Norm(K)
        self.sinks = mx.zeros((H,))
        self.o_a_proj = GroupedLinear(groups, H // groups * K, config.o_lora_rank)
        self.o_b_proj = Linear(groups * config.o_lora_rank, config.hidden_size)
        self._ops, self._rope = ops, rope
        self._heads, self._width, self._groups = H, K, groups
        self._window, self._eps = config.sliding_window, config.rms_norm_eps
        self._official = numerics is Numerics.OFFICIAL

    def __call__(self, x: mx.array, cache: LayerCache) -> mx.array:
        """Normed input [B, S, D] -> [B, S, D] float32; `cache` moves on by the tokens seen."""
        B, S, _ = x.shape
        groups = cache.groups(B, S)
        q_residual = mx.fast.rms_norm(
            self.q_a_proj(x), self.q_a_norm.weight.astype(mx.float32), self._eps
        )
        if self._official:
            q_residual = round_bf16(q_residual)
        q = self.q_b_proj(q_residual).reshape(B, S, self._heads, self._width)
        kv = self.kv_proj(x)
        extra = self._project(x, q_residual, groups)
        outputs = []
        for rows, tokens, state in groups:
            own = {name: array[rows, tokens] for name, array in extra.items()}
            outputs.append(self._attend(q[rows, tokens], kv[rows, tokens], own, state))
        return self._output(_padded(outputs, groups, B, S, (self._heads, self._width)))

    def _project(self, x: mx.array, q_residual: mx.array, groups: list[Any]) -> dict[str, mx.array]:
        """Further projections of the whole batch, sliced per timeline: each [B, S, ...]."""
        return {}

    def _compress(
        self, extra: dict[str, mx.array], state: LayerState
    ) -> tuple[mx.array | None, mx.array | None]:
        """Take the new tokens into `state`; stored entries [B, T, ...] and selected [B, n, k]."""
        return None, None

    def _attend(
        self, q: mx.array, kv: mx.array, extra: dict[str, mx.array], state: LayerState
    ) -> mx.array:
        """One timeline: q [B, n, H, K], kv [B, n, K] -> de-rotated output [B, n, H, K]."""
        position, n = state.position, q.shape[1]
        cos, sin = self._rope.tables(position, n)
        q = self._ops.q_prepare(q, cos, sin, eps=self._eps, official=self._official)
        kv = self._ops.kv_prepare(
            kv, self.kv_norm.weight, cos, sin, eps=self._eps, official=self._official
        )
        entries, selected = self._compress(extra, state)
        if state.window is not None:
            kv = mx.concatenate([state.layout.unpack(state.window), kv], axis=1)
        keep = min(self._window - 1, kv.shape[1])
        last = kv[:, kv.shape[1] - keep :]
        state.window = mx.contiguous(state.layout.pack(last)) if keep else None
        state.position += n
        output = self._ops.sparse_attention(
            q,
            kv,
            self.sinks,
            cos,
            sin,
            entries,
            selected,
            first_position=position,
            ratio=self.ratio,
            sliding_window=self._window,
            official=self._official,
        )
        # Callers that evaluate only logits (mlx-lm's decode loop) would else leave parts no
        # logits need yet, such as index keys before top-k selects, as an endless lazy chain.
        return mx.depends([output], [a for a in state.evaluated() if a is not None])[0]

    def _output(self, o: mx.array) -> mx.array:
        """[B, S, H, K] -> [B, S, D] through the grouped low-rank projection: consecutive heads."""
        B, S = o.shape[:2]
        o = self.o_a_proj(o.reshape(B, S, self._groups, -1))
        return self.o_b_proj(o.reshape(B, S, -1))


class HeavilyCompressedAttention(SlidingAttention):
    """Window plus every entry of 128 tokens (paper §2.3.2)."""

    ratio = 128

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: SimpleNamespace,
        rope: RotaryEmbedding,
    ):
        super().__init__(config, numerics, ops, rope)
        self.compressor = Compressor(
            config,
            width=config.head_dim,
            ratio=self.ratio,
            rounding="kv" if self._official else "none",
            ops=ops,
            rope=rope,
        )

    def _project(self, x: mx.array, q_residual: mx.array, groups: list[Any]) -> dict[str, mx.array]:
        kv, scores = self.compressor.project(x)
        return {"kv": kv, "scores": scores}

    def _compress(
        self, extra: dict[str, mx.array], state: LayerState
    ) -> tuple[mx.array | None, mx.array | None]:
        self.compressor.absorb(extra["kv"], extra["scores"], state.compressor, state.position)
        return state.compressor.entries.rows(), None


class CompressedSparseAttention(HeavilyCompressedAttention):
    """Window plus the entries of 4 tokens that the indexer selects (paper §2.3.1)."""

    ratio = 4

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: SimpleNamespace,
        rope: RotaryEmbedding,
    ):
        super().__init__(config, numerics, ops, rope)
        self.compressor.indexer = Indexer(config, numerics, ops, rope)

    def _project(self, x: mx.array, q_residual: mx.array, groups: list[Any]) -> dict[str, mx.array]:
        extra = super()._project(x, q_residual, groups)
        indexer = self.compressor.indexer
        extra["index_kv"], extra["index_scores"] = indexer.project(x)
        lengths = [state.position + t.stop - t.start for _, t, state in groups]
        if any(map(indexer.selects, lengths)):
            extra["index_q"], extra["head_weights"] = indexer.queries(q_residual, x)
        return extra

    def _compress(
        self, extra: dict[str, mx.array], state: LayerState
    ) -> tuple[mx.array | None, mx.array | None]:
        entries, _ = super()._compress(extra, state)
        indexer = self.compressor.indexer
        position, n = state.position, extra["kv"].shape[1]
        indexer.absorb(extra["index_kv"], extra["index_scores"], state.indexer, position)
        if not indexer.selects(position + n):
            return entries, None  # every visible entry is among the top k
        selected = indexer.select(extra["index_q"], extra["head_weights"], state.indexer, position)
        return entries, selected


def _padded(
    outputs: list[mx.array], groups: list[Any], B: int, S: int, heads: tuple[int, int]
) -> mx.array:
    """Per-timeline outputs back in their places, zeros where a row was padded: [B, S, H, K]."""
    if len(outputs) == 1 and outputs[0].shape[:2] == (B, S):
        return outputs[0]
    full = mx.zeros((B, S, *heads))
    for (rows, tokens, _), output in zip(groups, outputs, strict=True):
        full[rows, tokens] = output
    return full


ATTENTION = {
    kind.ratio: kind
    for kind in (SlidingAttention, CompressedSparseAttention, HeavilyCompressedAttention)
}
