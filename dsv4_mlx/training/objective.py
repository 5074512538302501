"""What nano is trained to minimise: next token, the one after it, balance, and the indexers'."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import mlx.core as mx
import numpy as np

from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.attention import Indexing
from dsv4_mlx.training.batch_shares import BatchShares, Summed
from dsv4_mlx.training.losses import balance_loss, cross_entropy, load_fractions
from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.packing import SharedPrompts
from dsv4_mlx.training.trained_model import ObservedRouter, TrainedModel

_BALANCE_WEIGHT = 1e-3


class WeightedTokens(Protocol):
    """Token ids [B, S + 2] and what each is worth as a target, float32 [B, S + 2]."""

    @property
    def tokens(self) -> np.ndarray: ...

    @property
    def weights(self) -> np.ndarray: ...


class NanoObjective:
    """The loss of the project's own model in its cacheless form, weights put in per call."""

    def __init__(
        self,
        config: DeepseekV4Config,
        fixed: Parameters,
        *,
        backend: str = "cpu",
        recompute: bool = False,
    ):
        self._config = config
        self._trained = TrainedModel(config, backend=backend, recompute=recompute)
        self.takes_packed = not recompute and not self.model.engrams()
        """Whether `packed` may be asked for."""
        self.mtp_weight = 0.3
        self.indexing: Indexing = "frozen"
        self.summed: Summed | None = None
        """Where other workers have rows of the batch too, which call at the same time."""
        self.put(fixed)

    @property
    def config(self) -> DeepseekV4Config:
        """The model's."""
        return self._config

    @property
    def model(self) -> Model:
        """The model whose weights are put in."""
        return self._trained.model

    @property
    def routers(self) -> dict[str, ObservedRouter]:
        """Routers that are balanced, by the name of their bias."""
        return self._trained.routers

    def put(self, parameters: Parameters) -> None:
        """Compute with these arrays, by name, from now on."""
        self._trained.put(parameters)

    def packed(self, packing: SharedPrompts) -> AbstractContextManager[None]:
        """Take the tokens of a call of the model for packed ones [1, T]."""
        return self._trained.packed(packing)

    def set_indexing(self, indexing: Indexing) -> None:
        """Switch the indexers of all layers; `frozen` before: see `attention`."""
        self.indexing = indexing
        self._trained.set_indexing(indexing)

    def __call__(
        self, parameters: Parameters, batch: WeightedTokens
    ) -> tuple[mx.array, dict[str, mx.array]]:
        """Next token + `mtp_weight` times the one after it + a little for unbalanced experts.

        While indexers learn, their own loss is added; it moves nothing but them. Extras: `nll`,
        `mtp`, with indexers `index` and `recall`, and every router's load by its bias's name.
        With `summed` these are those of the whole batch: loads at once, the loss and the other
        extras when those of all workers are added up.
        """
        self.put(parameters)
        model = self.model
        tokens, weights = mx.array(batch.tokens), mx.array(batch.weights)
        streams = model.streams(tokens[:, :-2])
        following = model.mtp[0].predict(
            streams, tokens[:, 1:-1], embed=self._trained.embed, head=model.lm_head
        )
        nll = cross_entropy(model.logits(streams), tokens[:, 1:-1], weights[:, 1:-1])
        mtp = cross_entropy(following, tokens[:, 2:], weights[:, 2:])
        seen = self._trained.routing()
        losses, recalls, queries = self._trained.indexing()
        shares = self._shares(batch.weights, seen, queries)
        loads = shares.loads
        balances = [balance_loss(scores, loads[name]) for name, (scores, _) in seen.items()]
        balance = sum(balances) / max(1, len(seen)) * shares.rows
        nll, mtp = nll * shares.nll, mtp * shares.mtp
        loss = nll + self.mtp_weight * mtp + _BALANCE_WEIGHT * balance
        extras = {"nll": nll, "mtp": mtp, **loads}
        if losses.size:
            index = (losses * shares.queries).sum()
            loss = loss + index
            extras |= {"index": index, "recall": recalls.mean() * shares.rows}
        return loss, extras

    def _shares(
        self, weights: np.ndarray, seen: Mapping[str, tuple[mx.array, mx.array]], queries: mx.array
    ) -> BatchShares:
        count = self.model.config.n_routed_experts
        loads = {name: load_fractions(experts, count) for name, (_, experts) in seen.items()}
        if self.summed is None:
            return BatchShares.alone(loads, queries)
        routed = {name: experts.size for name, (_, experts) in seen.items()}
        return BatchShares.among(self.summed, weights, routed, loads, queries)
