"""The model as a policy: what it says of the tokens of answers, and how far two policies differ.

Losses of post-training are sums over the tokens of sampled answers, so all of them work on rows
[M, V], one for each such token; the head is not computed for prompts and padding.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from dsv4_mlx.training.losses import cross_entropy
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.packed_batch import PackedBatch
from dsv4_mlx.training.rollouts import SampleBatch

Policy = Callable[[Parameters, SampleBatch], tuple[mx.array, mx.array]]
"""Parameters and answers -> logits [M, V] float32 of their tokens, and a loss of its own, a scalar
that is added to whatever the policy is trained for."""


class V4Policy:
    """The project's own model; its loss of its own is that of the MTP block.

    The MTP block goes on learning what the backbone says: it is trained on the answers, and no
    gradient of it reaches backbone, embedding or head. Otherwise its drafts would fit no longer.

    A prompt is read once for the answers to it that follow one another (`PackedBatch`), where the
    model can; `packs=False` reads it with each, which is the same but for the order of sums.
    """

    def __init__(self, objective: NanoObjective, fixed: Parameters, *, packs: bool = True):
        """`fixed` are the parameters that no gradient moves; a call may bring others of them."""
        self._objective, self._fixed = objective, fixed
        self._packs = packs and objective.takes_packed

    def __call__(self, parameters: Parameters, batch: SampleBatch) -> tuple[mx.array, mx.array]:
        """Logits [M, V] and the cross entropy of the MTP block's drafts."""
        self._objective.put(self._fixed | parameters)
        if self._packs:
            packed = PackedBatch(batch)
            streams = self._packed_streams(packed)
            return self._logits(streams, packed.places), self._packed_drafts(streams, packed)
        tokens = mx.array(batch.tokens)
        streams = self._objective.model.streams(tokens[:, :-1])
        return self._logits(streams, batch.places), self._drafts(streams, tokens, batch)

    def logits(self, parameters: Parameters, batch: SampleBatch) -> mx.array:
        """Logits [M, V] alone, evaluated, without a gradient."""
        self._objective.put(self._fixed | parameters)
        if self._packs:
            packed = PackedBatch(batch)
            given = self._logits(self._packed_streams(packed), packed.places)
        else:
            streams = self._objective.model.streams(mx.array(batch.tokens[:, :-1]))
            given = self._logits(streams, batch.places)
        found = mx.stop_gradient(given)
        mx.eval(found)
        return found

    def _logits(self, streams: mx.array, places: np.ndarray) -> mx.array:
        flat = streams.reshape(-1, *streams.shape[2:])
        return self._objective.model.logits(flat[mx.array(places)][None])[0]

    def _drafts(self, streams: mx.array, tokens: mx.array, batch: SampleBatch) -> mx.array:
        """The block at t is given the token at t + 1 and drafts the one at t + 2."""
        if not self._objective.model.mtp:
            return mx.array(0.0)
        logits = self._predicted(streams[:, :-1], tokens[:, 1:-1])
        answered = mx.zeros(tokens.shape[0] * (tokens.shape[1] - 1))
        answered[mx.array(batch.places)] = 1.0
        weights = answered.reshape(tokens.shape[0], -1)[:, 1:]
        return cross_entropy(logits, tokens[:, 2:], weights)

    def _packed_streams(self, packed: PackedBatch) -> mx.array:
        with self._objective.packed(packed.packing):
            return self._objective.model.streams(mx.array(packed.tokens)[None])

    def _packed_drafts(self, streams: mx.array, packed: PackedBatch) -> mx.array:
        """The same, with logits of the drafts that count alone."""
        drafts = packed.drafts
        if not self._objective.model.mtp or drafts is None:
            return mx.array(0.0)
        with self._objective.packed(drafts.packing):
            logits = self._predicted(
                streams[:, mx.array(drafts.streams)], mx.array(drafts.given)[None], drafts.places
            )
        targets = mx.array(drafts.targets)[None]
        return cross_entropy(logits, targets, mx.ones(targets.shape))

    def _predicted(
        self, streams: mx.array, following: mx.array, places: np.ndarray | None = None
    ) -> mx.array:
        """What the MTP block says, at all of S places or these: logits [B, S, V] or [1, n, V]."""
        model = self._objective.model
        table, head = model.model.embed_tokens.weight, model.lm_head.weight

        def logits(hidden: mx.array) -> mx.array:
            chosen = hidden if places is None else hidden[:, mx.array(places)]
            return chosen @ mx.stop_gradient(head).T

        return model.mtp[0].predict(
            mx.stop_gradient(streams),
            following,
            embed=lambda ids: mx.stop_gradient(table)[ids],
            head=logits,
        )


def token_logprobs(logits: mx.array, targets: mx.array) -> mx.array:
    """log p(target): [M, V], int [M] -> [M]."""
    chosen = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return chosen - mx.logsumexp(logits, axis=-1)


def reverse_kl(logits: mx.array, teacher_logits: mx.array) -> mx.array:
    """KL(policy || teacher) over the whole vocabulary: [M, V], [M, V] -> [M], natural logarithm.

    The gradient goes to `logits` alone. It is exact: `p (log p - log q - KL)` for every token of
    the vocabulary, where an estimate from the drawn token has noise, or in k3's form the gradient
    of another divergence.
    """
    own = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    other = mx.stop_gradient(teacher_logits - mx.logsumexp(teacher_logits, axis=-1, keepdims=True))
    return (mx.exp(own) * (own - other)).sum(axis=-1)


def entropy(logits: mx.array) -> mx.array:
    """Entropy of each row: [M, V] -> [M], natural logarithm."""
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return -(mx.exp(logprobs) * logprobs).sum(axis=-1)
