"""Engram in numpy from its equations: integers as Python's, which overflow nowhere, else float64.

Written from arXiv:2601.07372 and V4.1's wiring; nothing of the product's is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import v4_numpy

Weights = Mapping[str, np.ndarray]
EPS, LEAST_SCORE = 1e-20, 1e-6


@dataclass(frozen=True)
class Hashing:
    """How one layer finds its rows."""

    multipliers: Sequence[int]
    primes: Sequence[int]
    pad: int


def hashed(
    ids: Sequence[int], multipliers: Sequence[int], primes: Sequence[int], pad: int
) -> np.ndarray:
    """Rows [S, R] of the compressed ids of a whole text; a negative one is no token."""
    orders = len(multipliers) - 1
    heads = len(primes) // orders
    rows = np.zeros((len(ids), len(primes)), np.int64)
    for t in range(len(ids)):
        window, ended = [], False
        for back in range(orders + 1):
            ended = ended or t < back or ids[t - back] < 0
            window.append(pad if ended else int(ids[t - back]))
        for r, prime in enumerate(primes):
            mixed = 0
            for x, a in list(zip(window, multipliers, strict=True))[: r // heads + 2]:
                mixed ^= x * int(a)
            rows[t, r] = mixed % int(prime) + sum(int(p) for p in primes[:r])
    return rows


def scores(streams: np.ndarray, keys: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[..., N]: how well each stream [..., N, D] and its key fit."""
    x = streams / np.sqrt(np.mean(streams**2, axis=-1, keepdims=True) + EPS)
    k = keys / np.sqrt(np.mean(keys**2, axis=-1, keepdims=True) + EPS)
    return np.sum(x * weight * k, axis=-1) * streams.shape[-1] ** -0.5


def gates(score: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.maximum(np.abs(score), LEAST_SCORE))
    return 1 / (1 + np.exp(-np.where(score < 0, -root, root)))


def gated(streams: np.ndarray, kv: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Streams [..., N, D] after what kv [..., N + 1, D] says; weight [N, D] is both of them."""
    N = streams.shape[-2]
    alpha = gates(scores(streams, kv[..., :N, :], weight))
    return streams + alpha[..., None] * kv[..., N:, :]


def looked_up(weights: Weights, prefix: str, ids: Sequence[int], hashing: Hashing) -> np.ndarray:
    """Rows of a table side by side [S, R columns] for the compressed ids of a whole text."""
    rows = hashed(ids, hashing.multipliers, hashing.primes, hashing.pad)
    return weights[f"{prefix}engram.embed.weight"][rows].reshape(len(ids), -1)


def before_layer(
    weights: Weights, prefix: str, streams: np.ndarray, ids: Sequence[int], hashing: Hashing
) -> np.ndarray:
    """Streams [S, N, D] of a text as Engram hands them to its layer, not rounded."""
    S, N, D = streams.shape
    kv = looked_up(weights, prefix, ids, hashing) @ weights[f"{prefix}engram.wkv.weight"].T
    weight = weights[f"{prefix}engram.q_weight"] * weights[f"{prefix}engram.k_weight"]
    return gated(streams, kv.reshape(S, N + 1, D), weight)


def forward(
    config: Mapping[str, Any],
    weights: Weights,
    tokens: np.ndarray,
    ids: Sequence[int],
    hashings: Mapping[int, Hashing],
    *,
    official: bool,
) -> np.ndarray:
    """Token ids [S], compressed ones `ids` -> logits [S, V], with Engram before some layers."""
    streams = np.repeat(weights["embed.weight"][tokens][:, None], config["hc_mult"], axis=1)
    for number in range(config["num_hidden_layers"]):
        if number in hashings:
            streams = before_layer(weights, f"layers.{number}.", streams, ids, hashings[number])
            streams = v4_numpy.round_bf16(streams) if official else streams
        block = v4_numpy.run_block(config, weights, number, streams, tokens, official=official)
        streams = block.streams
    return v4_numpy._head(config, weights, "", "norm.weight", streams, official)
