"""From log-probabilities to tokens: greedy, temperature, top-p, min-p, each draw repeatable.

The filters and their order are mlx-lm's: top-p, then min-p, both on the model's own
distribution, then the temperature. A sampler owns its random key, so two sessions never disturb
each other and nothing global changes.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from dsv4_mlx.errors import UsageError

Sampler = Callable[[mx.array], mx.array]
"""Log-probabilities [V] float32 -> token id, a 0-d integer array."""

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Token:
    """One generated token.

    ``logprob`` is the model's own, natural logarithm, before temperature and filters.
    ``finish`` is set on the last token only: "stop" if it is one of the stop ids, "length" if the
    limit or the end of the context is reached.
    """

    id: int
    logprob: float
    finish: FinishReason | None = None


def make_sampler(
    temperature: float = 0.0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | None = None,
) -> Sampler:
    """A sampler; temperature 0, or near it, takes the likeliest token, the lowest id among equals.

    The same seed draws the same tokens; None is a new seed every time. UsageError for a value
    outside its range.
    """
    _check("temperature", temperature, temperature >= 0, "0 or more")
    _check("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1")
    _check("min_p", min_p, 0 <= min_p <= 1, "between 0 and 1")
    if temperature < _COLDEST:
        return greedy
    return _Draw(temperature, top_p, min_p, seed)


# Below this the division by the temperature leaves float32.
_COLDEST = 1e-6


def greedy(logprobs: mx.array) -> mx.array:
    """The likeliest token."""
    return mx.argmax(logprobs, axis=-1)


def keep_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """[V] -> [V]: -inf outside the smallest set of likeliest tokens that holds ``top_p``.

    Tokens as likely as the least likely one of the set stay too.
    """
    ordered = mx.sort(logprobs, axis=-1)
    weights = mx.exp(ordered)
    above = mx.cumsum(weights, axis=-1, reverse=True, inclusive=False)
    # Relative to the sum as it was rounded, so that top_p near 1 never drops the whole tail.
    total = above[..., :1] + weights[..., :1]
    dropped = (above >= top_p * total).sum(axis=-1, keepdims=True)
    least = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.where(logprobs < least, -math.inf, logprobs)


def keep_min_p(logprobs: mx.array, min_p: float) -> mx.array:
    """[V] -> [V]: -inf for tokens less than ``min_p`` times as likely as the likeliest."""
    least = mx.max(logprobs, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logprobs < least, -math.inf, logprobs)


class _Draw:
    """Random draws from one distribution after the other."""

    def __init__(self, temperature: float, top_p: float, min_p: float, seed: int | None):
        self._temperature, self._top_p, self._min_p = temperature, top_p, min_p
        self._key = mx.random.key(secrets.randbits(32) if seed is None else seed)

    def __call__(self, logprobs: mx.array) -> mx.array:
        self._key, key = mx.random.split(self._key)
        if self._top_p < 1:
            logprobs = keep_top_p(logprobs, self._top_p)
        if self._min_p > 0:
            logprobs = keep_min_p(logprobs, self._min_p)
        return mx.random.categorical(logprobs * (1 / self._temperature), key=key)


def _check(name: str, value: float, fits: bool, range_: str) -> None:
    if isinstance(value, bool) or not fits or not math.isfinite(value):
        raise UsageError(f"{name} must be {range_}, got {value}.")
