"""One layer of the backbone, and what an MTP block continues with."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.model.attention import Attention
from dsv4_mlx.model.compression import Compression
from dsv4_mlx.model.engram import Engram, LookedUp, engram_of
from dsv4_mlx.model.hyper_connections import HyperConnection
from dsv4_mlx.model.layers import Joined, Norm
from dsv4_mlx.model.moe import MoE
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.rope import RotaryEmbedding, compressed_rope, sliding_rope
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole
from metal_kernels.ops import Ops


class DecoderLayer(nn.Module):
    """mHC around attention, mHC around the experts; Engram before both, where the layer has it."""

    def __init__(
        self,
        config: DeepseekV4Config,
        numerics: Numerics,
        ops: Ops,
        *,
        role: LayerRole,
        rope: RotaryEmbedding,
        hashed: bool,
        engram: Engram | None = None,
    ):
        super().__init__()
        self.role = role
        self.engram = engram
        self.attn_hc = HyperConnection(config, numerics, ops)
        self.input_layernorm = Norm(config.hidden_size)
        compression = None
        if role.owns_entries:
            compression = Compression(config, role, numerics, ops, rope)
        self.self_attn = Attention(config, numerics, ops, rope, compression)
        self.ffn_hc = HyperConnection(config, numerics, ops)
        self.post_attention_layernorm = Norm(config.hidden_size)
        self.mlp = MoE(config, numerics, ops, hashed=hashed)

    def joined(self) -> list[Joined]:
        """The groups of layers that share an input."""
        return [*self.self_attn.joined(), self.mlp.shared_experts.joined]

    def __call__(
        self,
        streams: mx.array,
        tokens: mx.array,
        cache: LayerCache,
        looked_up: LookedUp | mx.array | None = None,
        *,
        last: bool = False,
        whole: Callable[[mx.array], None] | None = None,
    ) -> mx.array:
        """Streams [B, S, N, D], token ids [B, S] -> streams [B, S, N, D].

        `looked_up` is what Engram gave for the tokens where it was asked ahead. With `last` the
        cache takes all tokens in, and the experts work for the last one alone: [B, 1, N, D].
        `whole` gets the streams of all tokens then, for which they work once more.
        """
        if self.engram is not None:
            if looked_up is None:
                looked_up = self.engram.look_up(tokens, cache)
            streams = self.engram(streams, looked_up)
        x, post, comb = self.attn_hc.collapse(streams, self.input_layernorm.weight)
        y = self.self_attn(x, cache)
        if last and tokens.shape[1] > 1:
            if whole is not None:
                whole(self._mixed(y, streams, post, comb, tokens))
            y, streams, post, comb, tokens = (a[:, -1:] for a in (y, streams, post, comb, tokens))
        streams, x, post, comb = self.ffn_hc.expand_and_collapse(
            y, streams, post, comb, self.post_attention_layernorm.weight
        )
        shared, routed = self.mlp.parts(x, tokens)
        return self.ffn_hc.expand(shared, streams, post, comb, routed)

    def take_in(self, streams: mx.array, tokens: mx.array, cache: LayerCache) -> None:
        """Let `cache` take tokens in whose streams nobody needs after this layer."""
        if self.engram is not None:
            streams = self.engram(streams, self.engram.look_up(tokens, cache))
        x, _, _ = self.attn_hc.collapse(streams, self.input_layernorm.weight)
        self.self_attn(x, cache)

    def _mixed(
        self, y: mx.array, streams: mx.array, post: mx.array, comb: mx.array, tokens: mx.array
    ) -> mx.array:
        """What follows attention, whose output is `y`; `__call__` has it inline, as it is hot."""
        streams, x, post, comb = self.ffn_hc.expand_and_collapse(
            y, streams, post, comb, self.post_attention_layernorm.weight
        )
        shared, routed = self.mlp.parts(x, tokens)
        return self.ffn_hc.expand(shared, streams, post, comb, routed)


def decoder_layers(
    config: DeepseekV4Config, numbers: range, numerics: Numerics, ops: Ops
) -> list[DecoderLayer]:
    """The layers of these numbers, without values."""
    ropes = {False: sliding_rope(config), True: compressed_rope(config)}
    return [
        DecoderLayer(
            config,
            numerics,
            ops,
            role=config.layer_roles[number],
            rope=ropes[config.layer_roles[number].source is not None],
            hashed=number < config.num_hash_layers,
            engram=engram_of(config, number, numerics, ops),
        )
        for number in numbers
    ]
