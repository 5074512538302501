"""The project's own model in the form that is trained: ops with gradients, layers that remember.

Attention, experts and routers are replaced by forms with the same parameters. What a loss needs
of them beside the logits, they keep until it is asked: `routing()` and `indexing()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from dsv4_mlx.cache.layer import for_one_call
from dsv4_mlx.model.decoder_layer import DecoderLayer
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.router import TopKRouter
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.attention import Indexing, TrainedAttention
from dsv4_mlx.training.experts import TrainedExperts
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.packing import SharedPrompts
from dsv4_mlx.training.plan import require_gradients, training_plan
from metal_kernels.router.reference import expert_scores


class ObservedRouter(TopKRouter):
    """A router that remembers its last scores [M, E] and choice [M, k] for load balancing."""

    def __call__(self, x: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        experts, weights = super().__call__(x, tokens)
        self._seen = expert_scores(x, self.weight), experts
        return experts, weights

    @property
    def seen(self) -> tuple[mx.array, mx.array]:
        return self._seen

    def remember(self, scores: mx.array, experts: mx.array) -> None:
        """Have seen these."""
        self._seen = scores, experts


class RecomputedLayer(DecoderLayer):
    """A layer whose intermediate values are dropped and made again in the backward pass."""

    def __call__(self, streams: mx.array, tokens: mx.array, *_: Any, **__: Any) -> mx.array:
        """As the layer's, without the cache and what was looked up: rows are looked up anew."""

        @mx.checkpoint  # type: ignore[untyped-decorator]
        def inner(parameters: Parameters, streams: mx.array) -> list[mx.array]:
            self.update(tree_unflatten(list(parameters.items())))
            found = DecoderLayer.__call__(self, streams, tokens, for_one_call(self.role))
            return [found, *self._remembered()]

        parameters = dict(tree_flatten(self.trainable_parameters()))
        found, *seen = inner(parameters, streams)
        self._remember(seen)
        result: mx.array = found
        return result

    def _remembered(self) -> list[mx.array]:
        """What router and indexer saw: inside of `inner` these are its own values."""
        gate, attention = self.mlp.gate, self.self_attn
        routed = gate.seen if isinstance(gate, ObservedRouter) else ()
        indexed = attention.seen if isinstance(attention, TrainedAttention) else None
        return [*routed, *(indexed or ())]

    def _remember(self, seen: list[mx.array]) -> None:
        gate, attention = self.mlp.gate, self.self_attn
        if isinstance(gate, ObservedRouter):
            scores, experts, *seen = seen
            gate.remember(scores, experts)
        if isinstance(attention, TrainedAttention) and attention.seen is not None:
            attention.remember(*seen)


class TrainedModel:
    """A model without roundings whose weights are put in per call; same numbers as `Model`.

    `recompute` drops what layers of the backbone computed and makes it again in the backward pass.
    """

    def __init__(
        self, config: DeepseekV4Config, *, backend: str = "cpu", recompute: bool = False
    ) -> None:
        plan = training_plan(backend)
        self.model = Model(config, numerics=Numerics.PLAIN, plan=plan)
        require_gradients(self.model.kernel_plan())
        self.routers: dict[str, ObservedRouter] = {}
        """Routers that are balanced, by the name of their bias."""
        self.attentions: list[TrainedAttention] = []
        for name, block in self._blocks().items():
            self._take_over(name, block, config)
        if recompute:
            for layer in self.model.layers:
                layer.__class__ = RecomputedLayer

    def _blocks(self) -> dict[str, DecoderLayer]:
        blocks: dict[str, DecoderLayer] = {
            f"model.layers.{i}": layer for i, layer in enumerate(self.model.layers)
        }
        return blocks | {f"mtp.{i}": block for i, block in enumerate(self.model.mtp)}

    def _take_over(self, name: str, block: DecoderLayer, config: DeepseekV4Config) -> None:
        if isinstance(block.mlp.gate, TopKRouter):
            router = ObservedRouter(config, block.mlp.gate._ops)
            block.mlp.gate = router
            self.routers[f"{name}.mlp.gate.e_score_correction_bias"] = router
        if self.model.kernel_plan()["backend"] == "cpu":
            TrainedExperts.take_over(block.mlp.experts)
        self.attentions.append(TrainedAttention.take_over(block.self_attn))

    def put(self, parameters: Parameters) -> None:
        """Compute with these arrays, by name, from now on."""
        self.model.update(tree_unflatten(list(parameters.items())))

    def set_indexing(self, indexing: Indexing) -> None:
        """Switch the indexers of all layers: see `attention`."""
        for attention in self.attentions:
            attention.indexing = indexing
            attention.forget()

    @contextmanager
    def packed(self, packing: SharedPrompts) -> Iterator[None]:
        """Take the tokens of a call for packed ones [1, T]; for models without `recompute`, whose
        layers would look at their tokens again later, and without Engram, which takes them for
        neighbours."""
        for attention in self.attentions:
            attention.packing = packing
        try:
            yield
        finally:
            for attention in self.attentions:
                attention.packing = None

    def routing(self) -> dict[str, tuple[mx.array, mx.array]]:
        """Scores [M, E] and choices [M, k] of the last call, by the name of the router's bias."""
        return {name: router.seen for name, router in self.routers.items()}

    def indexing(self) -> tuple[mx.array, mx.array, mx.array]:
        """Of the layers whose indexers learn, [L] each: losses, recalls, and how many queries each
        was judged by."""
        seen = [one.seen for one in self.attentions if one.seen is not None]
        if not seen:
            return mx.zeros(0), mx.zeros(0), mx.zeros(0)
        losses, recalls, queries = (mx.stack(list(one)) for one in zip(*seen, strict=True))
        return losses, recalls, queries

    @property
    def embed(self) -> Callable[[mx.array], mx.array]:
        """The backbone's embedding, which MTP blocks share."""
        return self.model.model.embed_tokens
