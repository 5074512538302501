"""The draws of one reply: every token once, in order, from the logits of its own row.

Whether a row was computed alone or beside drafts changes no draw: keys are taken in the order of
the tokens, and a token that `steer` decides takes none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dsv4_mlx.engine.generation import Ahead, RepetitionPenalty, Sampler, Steer, ahead_of


@dataclass(frozen=True)
class _Prepared:
    """A draw of a row made before those of earlier rows were looked at."""

    token: mx.array
    logprob: mx.array
    taken: Callable[[], None]
    """Tells the sampler that the draw counts."""


class Draws:
    """Tokens from logits, by a sampler, a penalty and somebody who may decide instead."""

    def __init__(
        self, sampler: Sampler, penalty: RepetitionPenalty | None = None, steer: Steer | None = None
    ) -> None:
        self._sampler, self._penalty, self._steer = sampler, penalty, steer
        self._ahead: Ahead | None = None if penalty is not None else ahead_of(sampler)
        self._prepared: list[_Prepared] = []

    def draw(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The next token and its log-probability, 0-d arrays, given its logits [V]."""
        logprobs = logits - mx.logsumexp(logits)
        forced = None if self._steer is None else self._steer()
        sampler = self._sampler if forced is None else _always(forced)
        if self._penalty is not None:
            drawn = self._penalty.draw(logits, sampler)
        else:
            drawn = sampler(logprobs)
        return drawn, logprobs[drawn]

    def prepare(self, rows: Sequence[mx.array]) -> list[mx.array]:
        """Draw from rows [V] ahead, as the tokens to come would if no draft before them is wrong.

        Gives the arrays to evaluate; none where a draw depends on the tokens before it.
        """
        self._prepared = []
        if self._ahead is None:
            return []
        for logits, (draw, taken) in zip(rows, self._ahead(len(rows)), strict=True):
            logprobs = logits - mx.logsumexp(logits)
            drawn = draw(logprobs)
            self._prepared.append(_Prepared(drawn, logprobs[drawn], taken))
        return [array for one in self._prepared for array in (one.token, one.logprob)]

    def ahead(self, count: int) -> list[Sampler]:
        """The next draws, as functions that count as no draw; none where they are not known."""
        return [] if self._ahead is None else [draw for draw, _ in self._ahead(count)]

    def next(self, logits: mx.array, row: int | None = None) -> tuple[int, float]:
        """The next token, given its logits [V]: those of row `row` that `prepare` was given."""
        if row is None or row >= len(self._prepared):
            drawn, chosen = self.draw(logits)
            mx.eval(drawn, chosen)
            return read_draw(drawn, chosen)
        forced = None if self._steer is None else self._steer()
        if forced is not None:
            self._prepared = []  # their keys count on a draw that is not made
            logprobs = logits - mx.logsumexp(logits)
            return read_draw(mx.array(forced), logprobs[forced])
        one = self._prepared[row]
        one.taken()
        return read_draw(one.token, one.logprob)


def read_draw(token: mx.array, logprob: mx.array) -> tuple[int, float]:
    """Id and log-probability, waited for."""
    found: tuple[Any, Any] = token.item(), logprob.item()
    return found


def _always(token: int) -> Sampler:
    return lambda logprobs: mx.array(token)
