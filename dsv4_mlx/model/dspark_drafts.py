"""Drafts by DSpark: a timeline's rings of context, and a block of guesses from each run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import mlx.core as mx

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import draft_rings
from dsv4_mlx.model.dspark import DSparkBlock
from dsv4_mlx.model.mtp_drafts import DraftDraw
from dsv4_mlx.model.numerics import Numerics

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model
    from dsv4_mlx.release.config import DeepseekV4Config


class DSparkDrafts:
    """The stages of a model, which draft for every timeline of it."""

    name: ClassVar[str] = "dspark"
    needs_features: ClassVar[bool] = True
    # A run drafts a whole block whatever is verified of it: of V4-Flash 2.66 GB of the 11.39 of
    # a token, 2.20 with the head in eight bits.
    draft_costs: Sequence[float] = (0.0, *(0.25,) * 7)
    packed_costs: ClassVar[Sequence[float]] = (0.0, *(0.21,) * 7)

    def __init__(self, model: "Model", *, confident: bool = True) -> None:
        """`confident`: what the confidence head says, where there is one, shortens blocks."""
        if model.draft_head is not None:
            self.draft_costs = self.packed_costs
        self._config, self._confident = model.config, confident
        self.block = DSparkBlock(
            model.config,
            model.stages,
            model.ops,
            embedding=model.model.embed_tokens.weight,
            head=model.drafts_read,
            official=model.numerics is Numerics.OFFICIAL,
        )

    def new_drafter(self) -> "DSparkDrafter":
        return DSparkDrafter(self.block, self._config, self._confident)


class DSparkDrafter:
    """The rings of one timeline."""

    def __init__(self, block: DSparkBlock, config: "DeepseekV4Config", confident: bool) -> None:
        self._block, self._config, self._window = block, config, config.sliding_window
        self._confident = confident
        self._confidence: mx.array | None = None
        self.reset()

    def reset(self, tokens: Sequence[int] = ()) -> None:
        """Begin with the next token that is absorbed; until then a block sees itself alone."""
        self._cache = self._block.make_cache()

    def absorb(self, tokens: Sequence[int], features: mx.array) -> None:
        """Taps [1, S, 3 D] of tokens of the timeline; unevaluated."""
        if len(tokens) >= self._window:  # the others are out of reach
            self.reset()
        self._block.absorb(features[:, -self._window :], self._cache)

    def draft(self, anchor: int, count: int, draws: Sequence[DraftDraw] = ()) -> mx.array:
        """At most a block of guesses [k] at what follows `anchor`."""
        found = self._block.draft(anchor, self._cache, draws)
        self._confidence = None
        if self._confident and found.confidence is not None:
            self._confidence = found.confidence[:count]
        return found.ids[:count]

    def confidence(self) -> mx.array | None:
        """Logits [k] of the last guesses; None without a confidence head, or not asked for."""
        return self._confidence

    def remember(self) -> dict[str, mx.array]:
        """The rows of the rings; nothing before the first token."""
        return {} if self._cache[0].empty() else draft_rings.arrays_of(self._cache)

    def resume(self, arrays: Mapping[str, mx.array]) -> bool:
        """Go on from what `remember` gave; False where it is not of stages like these."""
        self.reset()
        return draft_rings.fill(self._cache, self._config, arrays)

    def state(self) -> list[mx.array]:
        """The rows of the rings."""
        return caches.evaluated(self._cache)
