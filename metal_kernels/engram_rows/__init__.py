"""Hashing of N-grams to the rows of Engram's tables (arXiv:2601.07372)."""

import mlx.core as mx
import numpy as np

from metal_kernels.contract import Case, Kernel, Size, on_gpus
from metal_kernels.engram_rows.launch import engram_rows as fused
from metal_kernels.engram_rows.reference import engram_rows


def _case(
    name: str, B: int, S: int, H: int, heads: int, V: int = 997, dtype: mx.Dtype = mx.int32
) -> Case:
    def make(seed: int) -> dict[str, object]:
        rng = np.random.default_rng(seed)
        # One in eight is no token: -1, or beyond the vocabulary.
        history = np.where(rng.random((B, H)) < 0.125, -1, rng.integers(0, V, (B, H)))
        tokens = np.where(rng.random((B, S)) < 0.125, V, rng.integers(0, V, (B, S)))
        bound = (2**63 - 1) // V // 2
        primes = 16_000_000 + np.sort(rng.choice(10_000, H * heads, replace=False))
        return {
            "tokens": mx.array(tokens).astype(dtype),
            "history": mx.array(history.astype(np.int32)),
            "token_map": mx.array((rng.permutation(V) * 2 // 3).astype(np.int32)),
            "multipliers": mx.array(2 * rng.integers(0, bound, H + 1) + 1),
            "primes": mx.array(primes),
            "pad_token_id": 2,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="engram_rows",
    summary="rows of Engram's tables for the N-grams that end at each token",
    reference=engram_rows,
    inputs={
        "tokens": "B S",
        "history": "B H",
        "token_map": "V",
        "multipliers": "K",
        "primes": "R",
    },
    outputs={"rows": "B S R", "last": "B H"},
    tolerance=0,
    cases=(
        _case("one-token", 1, 1, 3, 8),
        _case("odd-sizes", 3, 7, 2, 5),
        _case("pairs", 1, 5, 1, 1, V=3),
        _case("long-history", 2, 2, 5, 3, dtype=mx.int64),
        _case("prompt", 1, 90, 3, 8, V=4099),
    ),
    sizes=(
        Size(_case("flash-decode", 1, 1, 3, 8, V=129280), 0, nbytes=4 * (24 + 3 * 4)),
        Size(_case("flash-prefill", 1, 512, 3, 8, V=129280), 0),
    ),
    launches=on_gpus(fused),
)
