"""Multi-token prediction: one more block that continues the streams with the next token."""

from collections.abc import Callable

import mlx.core as mx

from dsv4_mlx.cache.layer import LayerCache, for_one_call
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.model.decoder_layer import DecoderLayer
from dsv4_mlx.model.hyper_connections import HyperHead
from dsv4_mlx.model.layers import Linear, Norm
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.rope import sliding_rope
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import WINDOW_ONLY
from metal_kernels.ops import Ops
from metal_kernels.shared.formats import round_bf16


class MultiTokenPredictor(DecoderLayer):
    """Streams at t and the token at t + 1 -> logits for t + 2 (window attention, no hash).

    Embedding and prediction head are the backbone's, which `predict` is given. Absolute positions
    cancel in window attention, so the block counts from its own first token.
    """

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: Ops,
        layout: EntryLayout,
    ):
        super().__init__(
            config, numerics, ops, role=WINDOW_ONLY, rope=sliding_rope(config), hashed=False
        )
        D = config.hidden_size
        self.e_proj = Linear(D, D)
        self.h_proj = Linear(D, D)
        self.enorm = Norm(D)
        self.hnorm = Norm(D)
        self.hc_head = HyperHead(config, numerics, ops)
        self.norm = Norm(D)
        self._eps, self._official = config.rms_norm_eps, numerics is Numerics.OFFICIAL
        self._layout = layout

    def make_cache(self) -> LayerCache:
        """An empty cache of this block's own window."""
        return LayerCache(WINDOW_ONLY, self._layout)

    def predict(
        self,
        streams: mx.array,
        next_tokens: mx.array,
        cache: LayerCache | None = None,
        *,
        embed: Callable[[mx.array], mx.array],
        head: Callable[[mx.array], mx.array],
    ) -> mx.array:
        """Streams [B, S, N, D] before the hyper head, ids [B, S] -> what `head` says of them.

        `embed` gives the rows [B, S, D] of token ids, `head` takes the hidden state [B, S, D]:
        with the backbone's two layers the result is logits [B, S, V] float32.
        """
        return head(self.collapse(self.advance(streams, next_tokens, cache, embed=embed)))

    def advance(
        self,
        streams: mx.array,
        next_tokens: mx.array,
        cache: LayerCache | None = None,
        *,
        embed: Callable[[mx.array], mx.array],
    ) -> mx.array:
        """The block's own streams [B, S, N, D], of what `predict` is given.

        With the token that they predict they may be given to it again.
        """
        embedded = self._norm(embed(next_tokens), self.enorm)
        x = self.e_proj(embedded)[:, :, None] + self.h_proj(self._norm(streams, self.hnorm))
        if self._official:
            x = round_bf16(x)
        cache = for_one_call(WINDOW_ONLY) if cache is None else cache
        return super().__call__(x, next_tokens, cache)

    def collapse(self, streams: mx.array) -> mx.array:
        """The block's own streams [B, S, N, D] -> what a prediction head takes [B, S, D]."""
        return self.hc_head(streams, self.norm.weight)

    def _norm(self, x: mx.array, norm: Norm) -> mx.array:
        return mx.fast.rms_norm(x, norm.weight.astype(mx.float32), self._eps)
