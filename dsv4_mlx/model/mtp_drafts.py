"""Drafts by an MTP block: it continues the model's streams, then its own ones, token after token.

A row takes the streams of a token and the token after it, and predicts the one after that. The
block is fed every position once; rows that continue its own streams are taken back.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import mlx.core as mx

from dsv4_mlx import cache as caches
from dsv4_mlx.cache import draft_rings

if TYPE_CHECKING:
    from dsv4_mlx.model.v4 import Model

DraftDraw = Callable[[mx.array], mx.array]
"""Log-probabilities [V] float32 -> token id, 0-d: the draw that will be made in a draft's place."""


class MtpDrafts:
    """The first MTP block of a model, which drafts for every timeline of it."""

    name: ClassVar[str] = "mtp"
    needs_features: ClassVar[bool] = True
    # Of V4-Flash: 0.18 GB of dense weights, 0.08 of experts and 1.06 of the head, in eight bits
    # 0.60, of 11.39 a token.
    draft_costs: Sequence[float] = tuple(0.116 * count for count in range(8))
    packed_costs: ClassVar[Sequence[float]] = tuple(0.075 * count for count in range(8))

    def __init__(self, model: "Model") -> None:
        self.model = model
        if model.draft_head is not None:
            self.draft_costs = self.packed_costs

    def new_drafter(self) -> "MtpDrafter":
        return MtpDrafter(self.model)


class MtpDrafter:
    """The block's window of one timeline, and the streams after its last token."""

    def __init__(self, model: "Model") -> None:
        self._model, self._block = model, model.mtp[0]
        self._window = model.config.sliding_window
        self.reset()

    def reset(self, tokens: Sequence[int] = ()) -> None:
        """Begin with the next token that is absorbed, as if it were the first one."""
        self._cache = self._block.make_cache()
        self._streams: mx.array | None = None  # [1, 1, N, D]

    def absorb(self, tokens: Sequence[int], features: mx.array) -> None:
        """Tokens of the timeline and the streams [1, S, N, D] after each; unevaluated."""
        before = features[:, :-1]
        if self._streams is None:
            tokens = tokens[1:]
        else:
            before = mx.concatenate([self._streams, before], axis=1)
        self._streams = features[:, -1:]
        if len(tokens) >= self._window:  # the others are out of reach
            self._cache = self._block.make_cache()
            tokens, before = tokens[-self._window :], before[:, -self._window :]
        if tokens:
            self._advance(before, mx.array([tokens]))

    def draft(self, anchor: int, count: int, draws: Sequence[DraftDraw] = ()) -> mx.array:
        """Guesses [k] at what follows `anchor`, drawn as `draws` would, else the likeliest."""
        if self._streams is None:
            return mx.array([], dtype=mx.int32)
        streams, token, drafts = self._streams, mx.array([[anchor]]), []
        held = caches.snapshot([self._cache])
        for number in range(count):
            streams = self._advance(streams, token)
            logits = self._model.drafts_read(self._block.collapse(streams))[0, -1]
            if number < len(draws):
                drawn = draws[number](logits - mx.logsumexp(logits))
            else:
                drawn = mx.argmax(logits)
            token = drawn.astype(mx.int32).reshape(1, 1)
            drafts.append(token[0])
        caches.restore([self._cache], held)
        return mx.concatenate(drafts)

    def remember(self) -> dict[str, mx.array]:
        """The window's rows and the streams; nothing before the first token."""
        if self._streams is None or self._cache.empty():
            return {}
        return {**draft_rings.arrays_of([self._cache]), "streams": self._streams}

    def resume(self, arrays: Mapping[str, mx.array]) -> bool:
        """Go on from what `remember` gave; False where it is not of a block like this."""
        config, streams = self._model.config, arrays.get("streams")
        form = ((1, 1, config.hc_mult, config.hidden_size), mx.float32)
        self.reset()
        if streams is None or (streams.shape, streams.dtype) != form:
            return False
        if not draft_rings.fill([self._cache], config, arrays):
            return False
        self._streams = streams
        return True

    def state(self) -> list[mx.array]:
        """The window's rows, and the streams."""
        streams = [] if self._streams is None else [self._streams]
        return [*caches.evaluated([self._cache]), *streams]

    def _advance(self, streams: mx.array, tokens: mx.array) -> mx.array:
        embed = self._model.model.embed_tokens
        return self._block.advance(streams, tokens, self._cache, embed=embed)
