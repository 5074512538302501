"""Answers drawn from the model in training: a group for every prompt, all of them in one batch.

Every prompt is read once and forked for the members of its group (`cache.lockstep`); prompts of
one length share a bundle. Sampling is at temperature 1 without filters, so that the log
probabilities that are kept are those of the policy itself: what GRPO's ratio divides by. The model
computes with the numerics of training (`Numerics.PLAIN`) and the weights that training computes
with, rounded as they will be stored; before an update the ratio is then one but for the order of
sums.

Random numbers belong to a seed and the place of an answer, not to the batch: an answer does not
change with those drawn beside it, but for the last bits of a product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from dsv4_mlx import cache as caches
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.lockstep import lockstep_cache, widened
from dsv4_mlx.errors import UsageError
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.training.muon import Parameters

# Ended rows are computed along until this share of a batch has ended: leaving them out copies the
# state of the others.
_ENDED_SHARE = 0.25


@dataclass(frozen=True)
class Sample:
    """One drawn answer; `tokens` are without the prompt and with the stop id that ended it."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural logarithm of every token's probability under the weights that drew it."""
    stopped: bool
    """Whether a stop id ended it, and not the limit."""


def rollout_model(config: DeepseekV4Config) -> Model:
    """A model that computes as training does; it has no weights until `put_weights`."""
    return Model(config, numerics=Numerics.PLAIN, backend="cpu")


def put_weights(model: Model, parameters: Parameters) -> None:
    """Let `model` compute with `parameters`, by our names; matrices of one input are joined."""
    model.update(tree_unflatten(list(parameters.items())))
    model.join()


def sampled_groups(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    group: int,
    max_tokens: int,
    stops: Sequence[int],
    seed: int,
    rows: int = 64,
    greedy: bool = False,
) -> list[list[Sample]]:
    """`group` answers to each prompt of token ids, in the order of the prompts.

    An answer has at most `max_tokens` tokens, the id of `stops` that ends it among them. About
    `rows` answers are computed at a time. `greedy` takes the likeliest token instead of drawing.
    UsageError for an empty prompt or a size below one.
    """
    _check(prompts, group=group, max_tokens=max_tokens, rows=rows)
    found: list[list[Sample]] = []
    step = max(1, rows // group)
    for start in range(0, len(prompts), step):
        part = prompts[start : start + step]
        noise = None if greedy else _noise(seed, start * group, len(part) * group, max_tokens)
        answers = _Batch(model, part, group, max_tokens, frozenset(stops), noise).run()
        found += [answers[i : i + group] for i in range(0, len(answers), group)]
    return found


def _check(prompts: Sequence[Sequence[int]], **sizes: int) -> None:
    wrong = next((name for name, value in sizes.items() if value < 1), None)
    if wrong is not None:
        raise UsageError(f"{wrong} must be 1 or more, got {sizes[wrong]}.")
    if any(len(prompt) == 0 for prompt in prompts):
        raise UsageError("expected prompts of at least one token but found an empty one.")


def _noise(seed: int, first: int, rows: int, max_tokens: int) -> np.ndarray:
    """One number in (0, 1] per answer and token, float32 [rows, max_tokens]."""
    draws = [
        1 - np.random.default_rng((seed, first + row)).random(max_tokens) for row in range(rows)
    ]
    return np.array(draws, np.float32)


def drawn(logprobs: mx.array, noise: mx.array) -> mx.array:
    """The token at which the summed probabilities reach `noise`: [B, V], (0, 1] [B] -> [B] int32.

    A token of probability zero is never drawn.
    """
    reached = mx.cumsum(mx.exp(logprobs), axis=-1)
    below = reached < noise[:, None] * reached[:, -1:]
    return below.sum(axis=-1).astype(mx.int32)


class _Batch:
    """Answers under way; `alive` are the places of the rows that are still computed."""

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        group: int,
        max_tokens: int,
        stops: frozenset[int],
        noise: np.ndarray | None,
    ):
        self._model, self._stops, self._noise, self._limit = model, stops, noise, max_tokens
        self._prompts = [tuple(prompt) for prompt in prompts for _ in range(group)]
        self._tokens: list[list[int]] = [[] for _ in self._prompts]
        self._logprobs: list[list[float]] = [[] for _ in self._prompts]
        self._group = group
        self._cache, self._logits, self._alive = self._read(prompts)

    def _read(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[list[LayerCache], mx.array, list[int]]:
        """Cache, logits [B, V] after the prompts, and which answer each row is."""
        model, cache = self._model, list[LayerCache]()
        logits, places = list[mx.array](), list[int]()
        for own in _by_length(prompts):
            tokens = mx.array([list(prompts[i]) for i in own], mx.int32)
            read = lockstep_cache(model.config, model.layout)
            last = mx.repeat(model.last_logits(tokens, read), self._group, axis=0)
            wide = widened(read, self._group)
            mx.eval(last, caches.evaluated(wide))
            for layer, more in zip(cache, wide, strict=False):
                layer.extend(more)
            cache = cache or wide
            logits.append(last)
            places += [i * self._group + member for i in own for member in range(self._group)]
        return cache, mx.concatenate(logits), places

    def run(self) -> list[Sample]:
        """Draw until every answer ended."""
        for step in range(self._limit):
            tokens = self._draw(step)
            rows = [row for row, place in enumerate(self._alive) if not self._stopped(place)]
            if not rows or step + 1 == self._limit:
                break
            if len(rows) <= (1 - _ENDED_SHARE) * len(self._alive):
                self._keep(rows)
                tokens = tokens[mx.array(rows)]
            self._logits = self._model(tokens[:, None], self._cache)[:, -1]
            mx.eval(self._logits, caches.evaluated(self._cache))
        return [self._sample(place) for place in range(len(self._prompts))]

    def _draw(self, step: int) -> mx.array:
        """The next token of every row [B] int32, noted for the answers that go on."""
        logprobs = self._logits - mx.logsumexp(self._logits, axis=-1, keepdims=True)
        if self._noise is None:
            tokens = mx.argmax(logprobs, axis=-1).astype(mx.int32)
        else:
            tokens = drawn(logprobs, mx.array(self._noise[self._alive, step]))
        chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
        ids, values = np.array(tokens), np.array(chosen)
        for row, place in enumerate(self._alive):
            if not self._stopped(place):
                self._tokens[place].append(int(ids[row]))
                self._logprobs[place].append(float(values[row]))
        return tokens

    def _stopped(self, place: int) -> bool:
        tokens = self._tokens[place]
        return bool(tokens) and tokens[-1] in self._stops

    def _keep(self, rows: list[int]) -> None:
        self._alive = [self._alive[row] for row in rows]
        for layer in self._cache:
            layer.filter(rows)

    def _sample(self, place: int) -> Sample:
        return Sample(
            self._prompts[place],
            tuple(self._tokens[place]),
            tuple(self._logprobs[place]),
            self._stopped(place),
        )


def _by_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of the prompts of each length, the shortest first."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        places[len(prompt)].append(place)
    for length in sorted(places):
        yield places[length]


@dataclass(frozen=True)
class SampleBatch:
    """Answers as rows of one length: what an objective computes on.

    `tokens` int32 [B, S]: prompt, answer, and any id where a row has ended. The M tokens of all
    answers, row by row, are `targets` int32 [M]; `places` int32 [M] says which of the B (S - 1)
    positions before the last predicts each, `rows` int32 [M] whose answer it is of, and `logprobs`
    float32 [M] how likely it was when it was drawn.
    """

    tokens: np.ndarray
    places: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    logprobs: np.ndarray

    def part(self, start: int, stop: int) -> SampleBatch:
        """The rows [start, stop) as a batch of their own."""
        own = (self.rows >= start) & (self.rows < stop)
        before = start * (self.tokens.shape[1] - 1)
        return SampleBatch(
            self.tokens[start:stop],
            self.places[own] - before,
            self.rows[own] - start,
            self.targets[own],
            self.logprobs[own],
        )


def as_batch(samples: Sequence[Sample], pad_to: int = 1) -> SampleBatch:
    """Samples of any lengths in one batch, whose length S - 1 is a multiple of `pad_to`."""
    longest = max(len(one.prompt) + len(one.tokens) for one in samples)
    length = 1 + -(-(longest - 1) // pad_to) * pad_to
    tokens = np.zeros((len(samples), length), np.int32)
    places, rows = [], []
    for row, one in enumerate(samples):
        start, stop = len(one.prompt), len(one.prompt) + len(one.tokens)
        tokens[row, :stop] = one.prompt + one.tokens
        places.append(row * (length - 1) + np.arange(start - 1, stop - 1))
        rows.append(np.full(len(one.tokens), row))
    at = np.concatenate(places).astype(np.int32)
    logprobs = np.array([value for one in samples for value in one.logprobs], np.float32)
    return SampleBatch(
        tokens, at, np.concatenate(rows).astype(np.int32), tokens[:, 1:].ravel()[at], logprobs
    )
