"""From token ids to the numbers of Engram's rows, in numpy on the host.

64-bit integers without overflow: a multiplier times a compressed id stays below 2^63, and `xor`
makes nothing longer. `metal_kernels/engram_rows` does the same in a model's graph.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dsv4_mlx.release.engram import EngramConfig

Ids = npt.NDArray[np.int64]

NO_TOKEN = -1
"""Stands where there is no token: before the first one, and for what is no text."""
_SEED = 10007


@cache
def multipliers(engram: EngramConfig, layer: int) -> tuple[int, ...]:
    """The odd factors of layer `layer`, one for each token of the longest N-gram."""
    bound = (2**63 - 1) // engram.compressed_vocab_size // 2
    generator = np.random.default_rng(_SEED * layer)
    drawn = generator.integers(0, bound, engram.max_ngram_size, dtype=np.int64)
    return tuple(2 * int(one) + 1 for one in drawn)


def row_numbers(
    engram: EngramConfig, layer: int, ids: npt.NDArray[Any], compressed_pad: int
) -> Ids:
    """The rows of layer `layer` for every token: int64 [..., S, rows_per_token].

    ids [..., kept_tokens + S] are compressed ones, beginning with those before the S tokens;
    NO_TOKEN and all before it count as `compressed_pad`.
    """
    factors, primes = multipliers(engram, layer), engram.primes(layer)
    kept, length = engram.kept_tokens, ids.shape[-1] - engram.kept_tokens
    seen = np.ones((*ids.shape[:-1], length), bool)
    mixed, rows, offset = np.zeros(seen.shape, np.int64), [], 0
    for back in range(engram.max_ngram_size):
        at = ids[..., kept - back : kept - back + length].astype(np.int64)
        seen = seen & (at >= 0)
        mixed = mixed ^ np.where(seen, at, compressed_pad) * np.int64(factors[back])
        if not back:
            continue
        for prime in primes[(back - 1) * engram.n_heads : back * engram.n_heads]:
            rows.append(mixed % prime + offset)
            offset += prime
    return np.stack(rows, axis=-1)
