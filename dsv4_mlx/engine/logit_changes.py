"""What changes logits before a token is drawn: a penalty on repetition, then what is added.

The order is that of `generation`. What is added, see `sampling.Shifts`, counts the tokens of one
reply, those that were decided for the model too, and none of its prompt.
"""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from dsv4_mlx.engine.generation import Sampler, make_penalty
from dsv4_mlx.engine.sampling import Shifts


class LogitChange(Protocol):
    """One change, of logits [V] float32 into such; it is told every token that is drawn."""

    def __call__(self, logits: mx.array, /) -> mx.array: ...

    def take(self, drawn: mx.array, size: int, /) -> None: ...


class ShiftedLogits:
    """Adds biases and takes presence and frequency penalties off, for one reply.

    As OpenAI documents: presence * (count > 0) + frequency * count is subtracted from a logit, and
    its bias added.
    """

    def __init__(self, shifts: Shifts) -> None:
        self._shifts = shifts
        self._bias: mx.array | None = None  # [V]
        self._counts: mx.array | None = None  # float32 [V]

    def __call__(self, logits: mx.array) -> mx.array:
        """[V] -> [V], float32."""
        shifts = self._shifts
        if shifts.logit_bias:
            logits = logits + self._biases(logits.size)
        if self._counts is not None:
            penalty = shifts.presence_penalty * (self._counts > 0)
            logits = logits - (penalty + shifts.frequency_penalty * self._counts)
        return logits

    def take(self, drawn: mx.array, size: int) -> None:
        """`drawn` counts once more from now on; a vocabulary has `size` tokens."""
        if self._shifts.penalises:
            one = (mx.arange(size) == drawn).astype(mx.float32)
            self._counts = one if self._counts is None else self._counts + one

    def _biases(self, size: int) -> mx.array:
        if self._bias is None:
            tokens, biases = zip(*dict(self._shifts.logit_bias).items(), strict=True)
            self._bias = mx.zeros(size, dtype=mx.float32)
            self._bias[mx.array(tokens, dtype=mx.int32)] = mx.array(biases, dtype=mx.float32)
        return self._bias


class LogitChanges:
    """All changes of one reply, in their order."""

    def __init__(self, changes: Sequence[LogitChange]) -> None:
        self._changes = tuple(changes)

    def draw(self, logits: mx.array, sampler: Sampler) -> mx.array:
        """A token of `sampler`, given the changed `logits` [V]; it counts from then on."""
        size = logits.size
        for change in self._changes:
            logits = change(logits)
        drawn = sampler(logits - mx.logsumexp(logits))
        for change in self._changes:
            change.take(drawn, size)
        return drawn


def make_changes(
    penalty: float, shifts: Shifts, tokens: Sequence[int], vocabulary: int
) -> LogitChanges | None:
    """What changes the logits [V] of a reply to the timeline `tokens`, of a model with `vocabulary`
    tokens; None where nothing does. UsageError."""
    shifts.check_tokens(vocabulary)
    repetition = make_penalty(penalty, tokens)
    changes: list[LogitChange] = [] if repetition is None else [repetition]
    if shifts.penalises or shifts.logit_bias:
        changes.append(ShiftedLogits(shifts))
    return LogitChanges(changes) if changes else None
