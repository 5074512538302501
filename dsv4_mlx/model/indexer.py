"""The lightning indexer: which compressed entries a query attends (paper §2.3.1, eqs. 13-17)."""

import mlx.core as mx

from dsv4_mlx.model.compressor import Compressor
from dsv4_mlx.model.layers import LayerOwner, Linear
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.rope import RotaryEmbedding
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole
from metal_kernels.ops import Ops


class IndexScorer(LayerOwner):
    """The signed weight of every index head, from the token alone."""

    def __init__(self, config: DeepseekV4Config):
        super().__init__()
        self.weights_proj = Linear(config.hidden_size, config.index_n_heads)


class Indexer(Compressor):
    """A small compressor of its own for keys, queries from the shared q residual, exact top-k."""

    def __init__(
        self,
        config: DeepseekV4Config,
        role: LayerRole,
        numerics: Numerics,
        ops: Ops,
        rope: RotaryEmbedding,
        first_column: int,
    ):
        official = numerics is Numerics.OFFICIAL
        super().__init__(
            config,
            role,
            width=config.index_head_dim,
            rounding="index" if official else "none",
            ops=ops,
            rope=rope,
            first_column=first_column,
        )
        self.q_b_proj = Linear(config.q_lora_rank, config.index_n_heads * config.index_head_dim)
        self.scorer = IndexScorer(config)
        self._topk = config.index_topk
        self._scale = float((config.index_n_heads * config.index_head_dim) ** -0.5)

    def selects(self, length: int) -> bool:
        """Whether `length` tokens have more entries than a query may attend."""
        return length // self.ratio > self._topk

    def select(
        self, q: mx.array, head_weights: mx.array, keys: mx.array, position: int | mx.array
    ) -> mx.array:
        """Indices of the entries each query attends: [B, S, k] int32, -1 for none.

        q [B, S, Hi, Ki] prepared, head_weights [B, S, Hi] as projected, keys as stored.
        """
        return self._ops.index_topk(
            q,
            head_weights,
            keys,
            first_position=position,
            ratio=self.ratio,
            k=self._topk,
            scale=self._scale,
        )
