"""A model whose routed experts are streamed, as a whole: its layers, and what tokens tell them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from dsv4_mlx.model.streamed_experts import ExpertFacts, StreamedExperts


class StreamedModel:
    """The streamed layers of a model, the first one first, and what tokens tell about them.

    `facts` are its counters. `tables` have the experts int [V, k] that each token chooses, by the
    number of the layer, for those whose router goes by tokens. `whole_layers` makes what a prompt
    passes whole layers by; see `dsv4_mlx.whole_layers`.
    """

    def __init__(
        self,
        layers: Mapping[int, StreamedExperts],
        facts: ExpertFacts,
        tables: Mapping[int, npt.NDArray[Any]],
        whole_layers: Callable[[], Any],
    ) -> None:
        self.layers, self.facts = dict(sorted(layers.items())), facts
        self.whole_layers = whole_layers
        self._tables = {number: table.astype(np.uint32) for number, table in tables.items()}
        for before, layer in pairwise(self.layers.values()):
            layer.follow(before)
        first, last = next(iter(self.layers.values())), list(self.layers.values())[-1]
        first.follow(None if first is last else last)

    def begin(self, tokens: mx.array) -> None:
        """A call of token ids [B, S] begins; waits for these where they decide about experts."""
        for layer in self.layers.values():
            layer.forget()
        if not self._tables:
            return
        ids = np.array(tokens).reshape(-1)
        for number, table in self._tables.items():
            self.layers[number].choose(table[ids])

    def for_prompt(self, tokens: mx.array, *, chooses_all: bool) -> Any:
        """What a prompt [1, S] passes whole layers by; None for one that chooses few of a layer's
        experts, which are fetched as any call's. Raises where the files are no longer in place:
        a reply is written to its end by those that are open, and nothing begins by them."""
        self.facts.require_in_place()
        if not chooses_all:
            self.begin(tokens)
            return None
        for layer in self.layers.values():
            layer.forget()
        return self.whole_layers()

    def ask_ahead(self, tokens: Sequence[int]) -> None:
        """Begin to read what the one token of a coming call decides about. Of several, which are a
        prompt's, the call itself asks for them: what it reads first would make room for others."""
        if len(tokens) != 1:
            return
        for number, table in self._tables.items():
            self.layers[number].ask_ahead(table[np.array(tokens, np.int64)])
