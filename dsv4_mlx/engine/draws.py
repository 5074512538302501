"""The draws of one reply: every token once, in order, from the logits of its own row.

Whether a row was computed alone or beside drafts changes no draw: keys are taken in the order of
the tokens, and a token that `steer` decides takes none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from dsv4_mlx.engine.generation import Ahead, Sampler, Steer, ahead_of
from dsv4_mlx.engine.logit_changes import LogitChanges


class Drawn(NamedTuple):
    """A token that was drawn; the fields are those of `generation.Token`."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class PendingDraw:
    """A draw under way: 0-d arrays, and the model's log-probabilities [V] where the `likeliest` so
    many are wanted of them."""

    token: mx.array
    logprob: mx.array
    logprobs: mx.array | None = None
    likeliest: int = 0

    def arrays(self) -> list[mx.array]:
        """What there is to evaluate."""
        return [self.token, self.logprob, *([] if self.logprobs is None else [self.logprobs])]

    def read(self) -> Drawn:
        """The token, waited for."""
        found: tuple[Any, Any] = self.token.item(), self.logprob.item()
        if self.logprobs is None:
            return Drawn(*found)
        return Drawn(*found, likeliest_of(np.array(self.logprobs), self.likeliest))


@dataclass(frozen=True)
class _Prepared:
    """A draw of a row made before those of earlier rows were looked at."""

    drawing: PendingDraw
    taken: Callable[[], None]
    """Tells the sampler that the draw counts."""


class Draws:
    """Tokens from logits, by a sampler, changes of the logits and somebody who may decide instead;
    beside each so many of the model's `likeliest`."""

    def __init__(
        self,
        sampler: Sampler,
        changes: LogitChanges | None = None,
        steer: Steer | None = None,
        likeliest: int = 0,
    ) -> None:
        self._sampler, self._changes, self._steer = sampler, changes, steer
        self._likeliest = likeliest
        self._ahead: Ahead | None = None if changes is not None else ahead_of(sampler)
        self._prepared: list[_Prepared] = []

    def draw(self, logits: mx.array) -> PendingDraw:
        """The next token, unevaluated, given its logits [V]."""
        logprobs = logits - mx.logsumexp(logits)
        forced = None if self._steer is None else self._steer()
        sampler = self._sampler if forced is None else _always(forced)
        if self._changes is not None:
            return self._drawing(self._changes.draw(logits, sampler), logprobs)
        return self._drawing(sampler(logprobs), logprobs)

    def prepare(self, rows: Sequence[mx.array]) -> list[mx.array]:
        """Draw from rows [V] ahead, as the tokens to come would if no draft before them is wrong.

        Gives the arrays to evaluate; none where a draw depends on the tokens before it.
        """
        self._prepared = []
        if self._ahead is None:
            return []
        for logits, (draw, taken) in zip(rows, self._ahead(len(rows)), strict=True):
            logprobs = logits - mx.logsumexp(logits)
            self._prepared.append(_Prepared(self._drawing(draw(logprobs), logprobs), taken))
        return [array for one in self._prepared for array in one.drawing.arrays()]

    def ahead(self, count: int) -> list[Sampler]:
        """The next draws, as functions that count as no draw; none where they are not known."""
        return [] if self._ahead is None else [draw for draw, _ in self._ahead(count)]

    def next(self, logits: mx.array, row: int | None = None) -> Drawn:
        """The next token, given its logits [V]: those of row `row` that `prepare` was given."""
        if row is None or row >= len(self._prepared):
            drawing = self.draw(logits)
            mx.eval(drawing.arrays())
            return drawing.read()
        forced = None if self._steer is None else self._steer()
        if forced is not None:
            self._prepared = []  # their keys count on a draw that is not made
            return self._drawing(mx.array(forced), logits - mx.logsumexp(logits)).read()
        one = self._prepared[row]
        one.taken()
        return one.drawing.read()

    def _drawing(self, token: mx.array, logprobs: mx.array) -> PendingDraw:
        all_of_them = logprobs if self._likeliest else None
        return PendingDraw(token, logprobs[token], all_of_them, self._likeliest)


def likeliest_of(logprobs: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest of [V] log-probabilities, each with its own; among equals the lowest
    id comes first, and is left where not all have room."""
    count = min(count, logprobs.size)
    if not count:
        return ()
    least = np.partition(logprobs, logprobs.size - count)[logprobs.size - count]
    found = np.flatnonzero(logprobs >= least)
    best = found[np.argsort(-logprobs[found], kind="stable")][:count]
    return tuple((int(token), float(logprobs[token])) for token in best)


def _always(token: int) -> Sampler:
    return lambda logprobs: mx.array(token)
