"""Attention: one latent head that is key and value, a window, and what compression keeps of the
rest (paper §2.3).

Projections run over the whole batch; everything that depends on a position runs per timeline, so
that a ragged batch is exactly its single runs. Matrices that share an input are one product.
"""

import mlx.core as mx

from dsv4_mlx.cache import ring
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.model.compression import Compression
from dsv4_mlx.model.layers import GroupedLinear, Joined, LayerOwner, Linear, Norm
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.rope import RotaryEmbedding
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops

Group = tuple[slice, slice, LayerState]
"""Rows and tokens of a batch, and the timeline that they are of."""


class Attention(LayerOwner):
    """Attention over the last W tokens with sinks, and over the entries of a `Compression`."""

    compressor: Compression | None

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: Ops,
        rope: RotaryEmbedding,
        compression: Compression | None,
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
        self.compressor = compression
        self._ratio = 0 if compression is None else compression.ratio
        self._q_kv = Joined(lambda: (self.q_a_proj, self.kv_proj))
        self._q_index: Joined | None = None
        if compression is not None and compression.indexer is not None:
            indexer = compression.indexer
            self._q_index = Joined(lambda: (self.q_b_proj, indexer.q_b_proj))
        self._ops, self._rope = ops, rope
        self._heads, self._width, self._groups = H, K, groups
        self._index_heads, self._index_width = config.index_n_heads, config.index_head_dim
        self._window, self._eps = config.sliding_window, config.rms_norm_eps
        self._official = numerics is Numerics.OFFICIAL

    @property
    def rope(self) -> RotaryEmbedding:
        """What turns its queries and keys, those of its entries too."""
        return self._rope

    def joined(self) -> list[Joined]:
        """The groups of layers that share an input."""
        raw_rows = None if self.compressor is None else self.compressor.raw_rows
        return [one for one in (self._q_kv, raw_rows, self._q_index) if one is not None]

    def __call__(self, x: mx.array, cache: LayerCache) -> mx.array:
        """Normed input [B, S, D] -> [B, S, D] float32; `cache` moves on by the tokens seen."""
        B, S, _ = x.shape
        groups = cache.groups(B, S)
        if not groups:  # padding alone
            return mx.zeros_like(x)
        projected = self._q_kv(x)
        compression = self.compressor
        raw = None if compression is None else compression.raw_rows(x)
        prepared = [self._prepare(projected[rows, tokens], state) for rows, tokens, state in groups]
        residual = _padded([q for q, _ in prepared], groups, B, S)
        q = self._queries(residual, groups)
        outputs: list[mx.array] = []
        for (rows, tokens, state), (_, kv) in zip(groups, prepared, strict=True):
            own = q[rows, tokens]
            if outputs:  # else MLX would work on all timelines at once, and need their memory
                own = mx.depends([own], outputs[-1:])[0]
            own_raw = None if raw is None else raw[rows, tokens]
            outputs.append(self._attend(own, kv, own_raw, state))
        return self._output(_padded(outputs, groups, B, S))

    def _prepare(self, projected: mx.array, state: LayerState) -> tuple[mx.array, mx.array]:
        """Normed q residual [B, n, ql] and the stored window rows [B, n, ...] of new tokens."""
        cos, sin = self._rope.of(state.moving, state.position, projected.shape[1])
        return self._ops.qkv_prepare(
            projected,
            self.q_a_norm.weight,
            self.kv_norm.weight,
            cos,
            sin,
            eps=self._eps,
            official=self._official,
            storage=state.layout.name,
        )

    def _queries(self, residual: mx.array, groups: list[Group]) -> mx.array:
        """Query projections [B, S, H K]; after them those of the index if any timeline selects."""
        if self._q_index is not None:
            assert self.compressor is not None
            ends = (state.position + tokens.stop - tokens.start for _, tokens, state in groups)
            if any(map(self.compressor.selects, ends)):
                return self._q_index(residual)
        return self.q_b_proj(residual)

    def _attend(
        self, projected: mx.array, kv: mx.array, raw: mx.array | None, state: LayerState
    ) -> mx.array:
        """One timeline: q projections [B, n, ...], stored kv -> de-rotated output [B, n, H, K]."""
        position, n = state.position, kv.shape[1]
        cos, sin = self._rope.of(state.moving, position, n)
        with_index = projected.shape[-1] > self._heads * self._width
        q, index_q = self._ops.q_prepare(
            projected,
            cos,
            sin,
            heads=self._heads,
            width=self._width,
            index_heads=self._index_heads if with_index else 0,
            index_width=self._index_width,
            eps=self._eps,
            official=self._official,
        )
        window, origin = self._take(kv, state)
        entries = selected = None
        if raw is not None:
            assert self.compressor is not None
            entries, selected = self.compressor.take(raw, index_q, state)
        state.position += n
        output = self._ops.sparse_attention(
            q,
            window,
            self.sinks,
            cos,
            sin,
            entries,
            selected,
            first_position=position if state.moving is None else state.moving.position,
            origin=origin,
            ratio=self._ratio,
            sliding_window=self._window,
            official=self._official,
        )
        # Callers that evaluate only logits (mlx-lm's decode loop) would else leave parts no
        # logits need yet, such as index keys before top-k selects, as an endless lazy chain.
        return output if state.one_call else mx.depends([output], state.evaluated())[0]

    def _take(self, kv: mx.array, state: LayerState) -> tuple[mx.array, int]:
        """Keep the window rows of the new tokens; the rows in reach of them, and their origin."""
        position, n = state.position, kv.shape[1]
        before = state.window
        if not state.one_call:
            state.write_window(kv, self._window)
            if n == 1:
                assert state.window is not None
                return state.window, 0
        earlier = min(position, self._window - 1)
        return ring.followed_by(before, kv, position, earlier), position - earlier

    def _output(self, o: mx.array) -> mx.array:
        """[B, S, H, K] -> [B, S, D] through the grouped low-rank projection: consecutive heads."""
        B, S = o.shape[:2]
        o = self.o_a_proj(o.reshape(B, S, self._groups, -1))
        return self.o_b_proj(o.reshape(B, S, -1))


def _padded(outputs: list[mx.array], groups: list[Group], B: int, S: int) -> mx.array:
    """Per-timeline arrays back in their places, zeros where a row was padded: [B, S, ...]."""
    if len(outputs) == 1 and outputs[0].shape[:2] == (B, S):
        return outputs[0]
    if B == 1 and len(outputs) > 1:  # a token of each of S timelines
        return mx.concatenate(outputs, axis=1)
    full = mx.zeros((B, S, *outputs[0].shape[2:]))
    for (rows, tokens, _), output in zip(groups, outputs, strict=True):
        full[rows, tokens] = output
    return full
