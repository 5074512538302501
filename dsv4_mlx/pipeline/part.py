"""Consecutive layers of a model: what one rank of a pipeline holds and computes."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from dsv4_mlx.cache.drafts import TimelineCache
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import layout_for
from dsv4_mlx.device.memory import HeldMemory
from dsv4_mlx.model.decoder_layer import decoder_layers
from dsv4_mlx.model.engram import Engram
from dsv4_mlx.model.hyper_connections import HyperHead
from dsv4_mlx.model.layers import Embedding, Joined, Linear, MatrixLayer, Norm
from dsv4_mlx.model.matmul import on_cpu
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.pacing import Pace
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.costs import Kv
from metal_kernels.ops import Ops
from metal_kernels.registry import KernelPlan


class PartBackbone(nn.Module):
    """The layers `own`, with the embedding before the first layer of a model and what turns
    streams into a hidden state after its last."""

    def __init__(self, config: DeepseekV4Config, own: range, numerics: Numerics, ops: Ops) -> None:
        super().__init__()
        if own.start == 0:
            self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = decoder_layers(config, own, numerics, ops)
        if own.stop == config.num_hidden_layers:
            self.hc_head = HyperHead(config, numerics, ops)
            self.norm = Norm(config.hidden_size)


class ModelPart(nn.Module):
    """Layers `own` of a DeepSeek-V4, on the kernels of `plan`; see `Model` for its other names.

    Its parameters are numbered from 0, whichever layers they are of.
    """

    def __init__(
        self,
        config: DeepseekV4Config,
        own: range,
        numerics: Numerics,
        *,
        kv: str | None,
        plan: KernelPlan,
    ) -> None:
        super().__init__()
        self.config, self.numerics, self.own = config, numerics, own
        self.layout = layout_for(numerics is Numerics.OFFICIAL, kv)
        self._plan = plan
        self.model = PartBackbone(config, own, numerics, plan.ops)
        if self.ends:
            self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.bytes_loaded = 0
        """Bytes that were read from files for the layers."""
        self.fingerprint = self.weights_fingerprint = ""
        self.earlier_fingerprints: Sequence[str] = ()
        self.memory = HeldMemory()
        self.explain: Callable[[BaseException], None] | None = None
        self._is_paced = not on_cpu(plan.ops)
        for _, module in self.named_modules():
            if isinstance(module, MatrixLayer):
                module.bind(plan.ops)

    @property
    def ends(self) -> bool:
        """Whether the last layer of the model is among the layers, and so the head."""
        return self.own.stop == self.config.num_hidden_layers

    @property
    def stored(self) -> Kv:
        """How caches keep rows, as sizes are told."""
        return "compact" if self.layout.name == "compact" else "bf16"

    @property
    def stream_dtype(self) -> mx.Dtype:
        """That of streams which travel: under the official numerics their values are bfloat16's."""
        return mx.bfloat16 if self.numerics is Numerics.OFFICIAL else mx.float32

    def embedded(self, tokens: mx.array) -> mx.array:
        """Token ids [B, S] -> the streams before the first layer [B, S, N, D] float32."""
        weight = self.model.embed_tokens.weight
        return self._plan.ops.embed_streams(tokens, weight, streams=self.config.hc_mult)

    def through(
        self,
        streams: mx.array,
        tokens: mx.array,
        cache: Sequence[LayerCache],
        *,
        last: bool = False,
    ) -> mx.array:
        """Streams [B, S, N, D] float32 after the layers; with `last`, which is for the part that
        ends the model, those of the last token [B, 1, N, D]."""
        pace = Pace(tokens.size) if self._is_paced and tokens.shape[1] > 1 else None
        looked_up = [
            None if layer.engram is None else layer.engram.look_up(tokens, state)
            for layer, state in zip(self.model.layers, cache, strict=True)
        ]
        final = len(self.model.layers) - 1
        for number, layer in enumerate(self.model.layers):
            streams = layer(
                streams, tokens, cache[number], looked_up[number], last=last and number == final
            )
            if pace is not None:
                pace.after(streams)
        return streams

    def logits(self, streams: mx.array) -> mx.array:
        """Streams [B, S, N, D] -> logits [B, S, V] float32, of the part that ends the model."""
        return self.lm_head(self.model.hc_head(streams, self.model.norm.weight))

    def make_cache(self) -> TimelineCache:
        """An empty cache, one entry for each of the layers."""
        roles = [self.config.layer_roles[number] for number in self.own]
        return TimelineCache(LayerCache(role, self.layout) for role in roles)

    def joined(self) -> list[Joined]:
        """The groups of layers that share an input."""
        return [one for layer in self.model.layers for one in layer.joined()]

    def join(self) -> None:
        """Lay weights that share an input one after the other; call it once they are loaded."""
        for joined in self.joined():
            mx.eval(joined.join())

    def engrams(self) -> dict[int, Engram]:
        """What the layers that have Engram look up with, by the layer's number in the model."""
        pairs = zip(self.own, self.model.layers, strict=True)
        return {number: layer.engram for number, layer in pairs if layer.engram is not None}

    @property
    def token_map(self) -> npt.NDArray[np.int32] | None:
        """How Engram compresses token ids, [V]; None without Engram."""
        return next((one.token_map for one in self.engrams().values()), None)

    def kernel_plan(self) -> dict[str, str]:
        """Which implementation every kernel runs, as `Model` tells it."""
        return {"backend": self._plan.backend, **self._plan.used}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Kernels that run by their slower references, as somebody asked."""
        return self._plan.left_out
