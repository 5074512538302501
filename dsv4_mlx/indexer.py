"""The lightning indexer: which compressed entries a query attends (paper §2.3.1, eqs. 13-17)."""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.cache import CompressorState
from dsv4_mlx.compressor import Compressor
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.layers import Linear
from dsv4_mlx.numerics import Numerics
from dsv4_mlx.rope import RotaryEmbedding

CSA_RATIO = 4


class IndexScorer(nn.Module):
    """The signed weight of every index head, from the token alone."""

    def __init__(self, config: DeepseekV4Config):
        super().__init__()
        self.weights_proj = Linear(config.hidden_size, config.index_n_heads)


class Indexer(Compressor):
    """A small compressor of its own for keys, queries from the shared q residual, exact top-k."""

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: SimpleNamespace,
        rope: RotaryEmbedding,
    ):
        official = numerics is Numerics.OFFICIAL
        super().__init__(
            config,
            width=config.index_head_dim,
            ratio=CSA_RATIO,
            rounding="index" if official else "none",
            ops=ops,
            rope=rope,
        )
        self.q_b_proj = Linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim)
        self.scorer = IndexScorer(config)
        self._heads, self._width = config.index_n_heads, config.index_head_dim
        self._topk, self._official = config.index_topk, official

    def selects(self, length: int) -> bool:
        """Whether `length` tokens have more entries than a query may attend."""
        return length // CSA_RATIO > self._topk

    def queries(self, q_residual: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
        """[B, S, ql], [B, S, D] -> raw queries [B, S, Hi, Ki], head weights [B, S, Hi]."""
        q = self.q_b_proj(q_residual)
        q = q.reshape(*q.shape[:2], self._heads, self._width)
        return q, self.scorer.weights_proj(x) * (self._heads * self._width) ** -0.5

    def select(
        self, q: mx.array, head_weights: mx.array, state: CompressorState, position: int
    ) -> mx.array:
        """Indices of the entries each query attends: [B, S, k] int32, -1 for none."""
        cos, sin = self._rope.tables(position, q.shape[1])
        q = self._ops.index_q_prepare(q, cos, sin, official=self._official)
        return self._ops.index_topk(
            q,
            head_weights,
            state.entries.rows(),
            first_position=position,
            ratio=CSA_RATIO,
            k=self._topk,
        )
