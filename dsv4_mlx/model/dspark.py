"""DSpark: three stages that draft a block of tokens in one run, as V4-Flash-0731 has them.

The keys of the context are made from what the target keeps of its last layers; the rows of a block
see all of it and one another, and never enter the rings. So a draft leaves no trace by itself.
Source: the design's sections 3 and 4, read off the release's inference code by several ports.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.cache import ring
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.model.attention import Attention
from dsv4_mlx.model.decoder_layer import DecoderLayer
from dsv4_mlx.model.hyper_connections import HyperHead
from dsv4_mlx.model.layers import Embedding, Linear, Norm
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.rope import sliding_rope
from dsv4_mlx.release.config import DeepseekV4Config, DSpark
from dsv4_mlx.release.layer_roles import WINDOW_ONLY
from metal_kernels.hc_pre.reference import mix_streams
from metal_kernels.ops import Ops
from metal_kernels.shared.formats import load_stored, round_bf16
from metal_kernels.shared.rotary import rotate
from metal_kernels.sparse_attention.reference import attend


class BlockAttention(Attention):
    """Attention of a block's rows to up to W rows of context and to all rows of the block."""

    def absorb(self, x: mx.array, cache: LayerCache) -> None:
        """Keep the keys of tokens, of their normed taps [1, n, D]."""
        (state,) = cache.rows
        _, kv = self._prepare(self._q_kv(x), state)
        state.write_window(kv, self._window)
        state.position += x.shape[1]

    def __call__(self, x: mx.array, cache: LayerCache) -> mx.array:
        """Normed input [1, n, D] of a block after the tokens of `cache`, which stays as it is."""
        (state,) = cache.rows
        position, n = state.position, x.shape[1]
        residual, keys = self._prepare(self._q_kv(x), state)
        cos, sin = self._rope.of(None, position, n)
        q, _ = self._ops.q_prepare(
            self.q_b_proj(residual),
            cos,
            sin,
            heads=self._heads,
            width=self._width,
            index_heads=0,
            index_width=self._index_width,
            eps=self._eps,
            official=self._official,
        )
        if state.window is not None:
            context = ring.read(state.window, max(0, position - self._window), position)
            keys = mx.concatenate([context, keys], axis=1)
        keys = load_stored(keys, self._width, 2 * cos.shape[-1], "latent")
        seen = mx.ones((n, keys.shape[1]), dtype=mx.bool_)
        output = attend(q, keys, seen, self.sinks, official=self._official)
        output = rotate(output, cos[:, None], sin[:, None], inverse=True)
        return self._output(round_bf16(output) if self._official else output)


class MarkovHead(nn.Module):
    """What a token adds to the logits of the one after it, in low rank."""

    def __init__(self, vocab_size: int, rank: int):
        super().__init__()
        self.markov_w1 = Embedding(vocab_size, rank)
        self.markov_w2 = Linear(rank, vocab_size)


class ConfidenceHead(nn.Module):
    """How likely a draft is right, given that those before it are."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = Linear(width, 1)


class DSparkStage(DecoderLayer):
    """One stage; the first also reads taps, the last also predicts."""

    def __init__(
        self,
        config: DeepseekV4Config,
        dspark: DSpark,
        numerics: Numerics,
        ops: Ops,
        layout: EntryLayout,
        number: int,
    ):
        rope = sliding_rope(config)
        super().__init__(config, numerics, ops, role=WINDOW_ONLY, rope=rope, hashed=False)
        D = config.hidden_size
        self.self_attn = BlockAttention(config, numerics, ops, rope, None)
        if number == 0:
            self.main_proj = Linear(len(dspark.target_layer_ids) * D, D)
            self.main_norm = Norm(D)
        if number == config.num_draft_stages - 1:
            self.norm = Norm(D)
            self.hc_head = HyperHead(config, numerics, ops)
            self.markov_head = MarkovHead(config.vocab_size, dspark.markov_rank)
            self.confidence_head: ConfidenceHead | None = ConfidenceHead(D + dspark.markov_rank)
        self._layout = layout

    def make_cache(self) -> LayerCache:
        """An empty ring of the keys of the context."""
        return LayerCache(WINDOW_ONLY, self._layout)


class DraftedBlock:
    """What a run drafted: ids [B], confidence logits [B] and the parallel part's logits [B, V]."""

    def __init__(self, ids: mx.array, confidence: mx.array | None, logits: mx.array) -> None:
        self.ids, self.confidence, self.logits = ids, confidence, logits


class DSparkBlock:
    """The stages as one drafter, with the target's embedding and head."""

    def __init__(
        self,
        config: DeepseekV4Config,
        stages: Sequence[DSparkStage],
        ops: Ops,
        *,
        embedding: mx.array,
        head: Callable[[mx.array], mx.array],
        official: bool,
    ) -> None:
        """`embedding` [V, D] is the target's, `head` takes [B, S, D] to logits."""
        assert config.dspark is not None
        self._dspark, self._stages, self._ops = config.dspark, tuple(stages), ops
        self._embedding, self._head, self._official = embedding, head, official
        self._streams, self._eps, self._hc_eps = config.hc_mult, config.rms_norm_eps, config.hc_eps

    def make_cache(self) -> list[LayerCache]:
        """An empty ring for each stage."""
        return [stage.make_cache() for stage in self._stages]

    def absorb(self, taps: mx.array, cache: Sequence[LayerCache]) -> None:
        """Keep the context of tokens, of their taps [1, n, 3 D]; all stages read the same."""
        first = self._stages[0]
        context = self._normed(first.main_proj(taps), first.main_norm)
        for stage, own in zip(self._stages, cache, strict=True):
            stage.self_attn.absorb(context, own)

    def draft(
        self,
        anchor: int,
        cache: Sequence[LayerCache],
        draws: Sequence[Callable[[mx.array], mx.array]] = (),
    ) -> DraftedBlock:
        """A whole block after `anchor`, drawn as `draws` would, else the likeliest tokens."""
        last, size = self._stages[-1], self._dspark.block_size
        ids = mx.array([[anchor, *[self._dspark.noise_token_id] * (size - 1)]])
        x = self._ops.embed_streams(ids, self._embedding, streams=self._streams)
        for stage, own in zip(self._stages, cache, strict=True):
            x = stage(x, ids, own)
        hidden = self._collapsed(x, last.hc_head)
        logits = self._head(self._normed(hidden, last.norm))[0]
        markov, token, drafts, seen = last.markov_head, mx.array(anchor), [], []
        for place in range(size):
            embedded = markov.markov_w1(token)
            corrected = logits[place] + markov.markov_w2(embedded[None])[0]
            if place < len(draws):
                token = draws[place](corrected - mx.logsumexp(corrected))
            else:
                token = mx.argmax(corrected)
            token = token.astype(mx.int32)
            drafts.append(token)
            seen.append(embedded)
        confidence = None
        if last.confidence_head is not None:
            read = mx.concatenate([hidden[0], mx.stack(seen)], axis=-1)
            confidence = last.confidence_head.proj(read)[:, 0]
        return DraftedBlock(mx.stack(drafts), confidence, logits)

    def _normed(self, x: mx.array, norm: Norm) -> mx.array:
        x = mx.fast.rms_norm(x, norm.weight.astype(mx.float32), self._eps)
        return round_bf16(x) if self._official else x

    def _collapsed(self, streams: mx.array, head: HyperHead) -> mx.array:
        """The hyper head's sum before its norm, [1, S, D]: confidence reads it as it is."""
        B, S, N, _ = streams.shape
        mix = mix_streams(streams, head.hc_fn, self._eps)
        weights = mx.sigmoid(mix * head.hc_scale[0] + head.hc_base[:, None]) + self._hc_eps
        hidden = (weights.T.reshape(B, S, N, 1) * streams).sum(axis=2)
        return round_bf16(hidden) if self._official else hidden
