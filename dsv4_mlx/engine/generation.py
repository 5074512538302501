"""From logits to tokens: greedy, or drawn from a filtered distribution, each draw repeatable.

What acts on the logits, in this order: the repetition penalty, as transformers defines it; presence
and frequency penalties and biases, which are added, see `logit_changes`; then on the distribution
that gives, mlx-lm's filters in mlx-lm's order, top-p, min-p and top-k; then the temperature. What
an answer may not say, see `serving.constraint`, is taken out before the filters. A sampler owns its
random key, so two sessions never disturb each other and nothing global changes.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import mlx.core as mx

from dsv4_mlx.engine.sampling import Sampling, check

Sampler = Callable[[mx.array], mx.array]
"""Log-probabilities [V] float32 -> token id, a 0-d integer array."""

Steer = Callable[[], int | None]
"""Asked before each token is drawn; a token id is taken instead of drawing one."""

Ahead = Callable[[int], list[tuple[Sampler, Callable[[], None]]]]
"""For so many draws to come, each as a function, and what to call once it counts."""

StreamEnd = Literal["stop", "length"]


@dataclass(frozen=True)
class Token:
    """One generated token.

    `logprob` is the model's own, natural logarithm, before penalties, biases, filters and
    temperature. `finish` is set on the last token only: "stop" if it is one of the stop ids,
    "length" if the limit or the end of the context is reached. `likeliest` are so many of the
    model's likeliest tokens in its place as were asked for, each with its own logarithm, the lowest
    id first among equals.
    """

    id: int
    logprob: float
    finish: StreamEnd | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


def stream_end(stopped: bool, full: bool) -> StreamEnd | None:
    """Why a stream ends with a token that is a stop one, or the last that has room."""
    if stopped:
        return "stop"
    return "length" if full else None


def make_sampler(
    temperature: float = 0.0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int | None = None,
    top_k: int = 0,
) -> Sampler:
    """A sampler; temperature 0, or near it, takes the likeliest token, the lowest id among equals.

    The same seed draws the same tokens; None is a new seed every time. UsageError for a value
    outside its range.
    """
    return sampler_of(Sampling(temperature, top_p, seed, top_k, min_p))


def sampler_of(settings: Sampling) -> Sampler:
    """The same, of `settings`, whose repetition penalty is not the sampler's part."""
    return greedy if settings.temperature < _COLDEST else _Draw(settings)


# Below this the division by the temperature leaves float32.
_COLDEST = 1e-6
# A backend may take numbers below this for zero.
_LEAST = 2.0**-126
_MOST = float(mx.finfo(mx.float32).max)


def ahead_of(sampler: Sampler) -> Ahead | None:
    """How to make the draws of `sampler` before they are known to count; None for others' ones."""
    if sampler is greedy:
        return lambda count: [(greedy, lambda: None)] * count
    return sampler.ahead if isinstance(sampler, _Draw) else None


def greedy(logprobs: mx.array) -> mx.array:
    """The likeliest token."""
    return mx.argmax(logprobs, axis=-1)


def keep_top_p(logprobs: mx.array, top_p: float) -> mx.array:
    """[V] -> [V]: -inf outside the smallest set of likeliest tokens that holds `top_p`.

    Tokens as likely as the least likely one of the set stay too, and the likeliest always does.
    """
    ordered = mx.sort(logprobs, axis=-1)
    weights = mx.exp(ordered)
    above = mx.cumsum(weights, axis=-1, reverse=True, inclusive=False)
    # Relative to the sum as it was rounded, so that top_p near 1 never drops the whole tail.
    total = above[..., :1] + weights[..., :1]
    dropped = (above >= top_p * total).sum(axis=-1, keepdims=True)
    # As float32 a small top_p is 0, which nothing lies above.
    dropped = mx.minimum(dropped, logprobs.shape[-1] - 1)
    least = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.where(logprobs < least, -math.inf, logprobs)


def keep_min_p(logprobs: mx.array, min_p: float) -> mx.array:
    """[V] -> [V]: -inf for tokens less than `min_p` times as likely as the likeliest."""
    least = mx.max(logprobs, axis=-1, keepdims=True) + math.log(min_p)
    return mx.where(logprobs < least, -math.inf, logprobs)


def keep_top_k(logprobs: mx.array, top_k: int) -> mx.array:
    """[V] -> [V]: -inf outside the `top_k` likeliest tokens; all stay when there are no more.

    Tokens as likely as the least likely one of them stay too.
    """
    size = logprobs.shape[-1]
    if top_k >= size:
        return logprobs
    least = mx.partition(logprobs, size - top_k, axis=-1)[..., size - top_k, None]
    return mx.where(logprobs < least, -math.inf, logprobs)


class RepetitionPenalty:
    """Makes the tokens of a timeline less likely, or more likely with a penalty below 1.

    As in transformers, and in the paper (arXiv:1909.05858, section 4.1): a logit above 0 is divided
    by the penalty and one below is multiplied with it, once, however often the token occurs, and
    the tokens of the prompt count.
    """

    def __init__(self, penalty: float, tokens: Sequence[int]) -> None:
        """`tokens` are the timeline so far."""
        self._penalty = min(max(penalty, _LEAST), _MOST)
        self._tokens = list(set(tokens))
        self._occurs: mx.array | None = None  # bool [V]

    def take(self, drawn: mx.array, size: int) -> None:
        """`drawn` counts from now on; a vocabulary has `size` tokens."""
        self._occurs = self._seen(size) | (mx.arange(size) == drawn)

    def __call__(self, logits: mx.array) -> mx.array:
        """[V] -> [V], float32; what would leave float32 stays at its end."""
        changed = mx.where(logits < 0, logits * self._penalty, logits / self._penalty)
        return mx.where(self._seen(logits.size), mx.clip(changed, -_MOST, _MOST), logits)

    def _seen(self, size: int) -> mx.array:
        if self._occurs is None:
            self._occurs = mx.zeros(size, dtype=mx.bool_)
            self._occurs[mx.array(self._tokens, dtype=mx.int32)] = True
        return self._occurs


def make_penalty(penalty: float, tokens: Sequence[int]) -> RepetitionPenalty | None:
    """The penalty on a timeline's tokens, None where it changes nothing. UsageError."""
    check("repetition_penalty", penalty)
    return None if penalty == 1 else RepetitionPenalty(penalty, tokens)


class _Draw:
    """Random draws from one distribution after the other."""

    def __init__(self, settings: Sampling) -> None:
        self._settings = settings
        self._scale = max(1 / settings.temperature, _LEAST)
        seed = settings.seed
        self._key = mx.random.key(secrets.randbits(32) if seed is None else seed)

    def __call__(self, logprobs: mx.array) -> mx.array:
        self._key, key = mx.random.split(self._key)
        return self._drawn(logprobs, key)

    def ahead(self, count: int) -> list[tuple[Sampler, Callable[[], None]]]:
        """The next `count` draws, each with its own key; none counts before it is told so."""
        following = self._key
        draws: list[tuple[Sampler, Callable[[], None]]] = []
        for _ in range(count):
            following, key = mx.random.split(following)
            draws.append((partial(self._drawn, key=key), partial(self._goes_on, following)))
        return draws

    def _goes_on(self, key: mx.array) -> None:
        self._key = key

    def _drawn(self, logprobs: mx.array, key: mx.array) -> mx.array:
        if self._settings.top_p < 1:
            logprobs = keep_top_p(logprobs, self._settings.top_p)
        if self._settings.min_p > 0:
            logprobs = keep_min_p(logprobs, self._settings.min_p)
        if self._settings.top_k > 0:
            logprobs = keep_top_k(logprobs, self._settings.top_k)
        return mx.random.categorical(logprobs * self._scale, key=key)
