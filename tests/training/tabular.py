"""A policy that is a table: the logits of the next token by the last one. All of it is exact."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.rollouts import Sample, SampleBatch

TABLE = "lm_head.weight"  # by this name the optimizer of embedding and head moves it


def tabular(parameters: Parameters, batch: SampleBatch) -> tuple[mx.array, mx.array]:
    """Logits [M, V] of parameters `{TABLE: [V, V]}`, and no loss of its own."""
    before = batch.tokens[:, :-1].ravel()[batch.places]
    return parameters[TABLE][mx.array(before)], mx.array(0.0)


def probabilities(table: np.ndarray) -> np.ndarray:
    """Softmax of each row, float64."""
    shifted = np.exp(np.asarray(table, np.float64) - np.max(table, axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def answer(table: np.ndarray, prompt: int, length: int, rng: np.random.Generator) -> Sample:
    """An answer of `length` tokens to a prompt of one, drawn from the table."""
    odds, tokens = probabilities(table), [prompt]
    for _ in range(length):
        tokens.append(int(rng.choice(len(odds), p=odds[tokens[-1]])))
    return told(table, prompt, tokens[1:])


def told(table: np.ndarray, prompt: int, tokens: Sequence[int]) -> Sample:
    """The answer `tokens` with its log probabilities under the table."""
    odds, before = probabilities(table), [prompt, *tokens[:-1]]
    logprobs = tuple(float(np.log(odds[b, t])) for b, t in zip(before, tokens, strict=True))
    return Sample((prompt,), tuple(tokens), logprobs, True)
