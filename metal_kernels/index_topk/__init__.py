"""Index scores and exact top-k selection of compressed entries (paper §2.3.1)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.index_topk.reference import index_topk


def _case(name: str, B: int, S: int, H: int, T: int, k: int, first: int, grid: int = 0) -> Case:
    def make(seed: int) -> dict[str, object]:
        q, keys = random_normal(seed, B, S, H, 128), random_normal(seed + 1, B, T, 128)
        weights = random_normal(seed + 2, B, S, H)
        if grid:  # few distinct values make many exact ties
            q, keys, weights = (mx.round(x * grid) for x in (q, keys, weights))
        return {
            "q": q,
            "head_weights": weights,
            "keys": keys,
            "first_position": first,
            "ratio": 4,
            "k": k,
        }

    return Case(name, make)


def _relu_plateau(seed: int) -> dict[str, object]:
    """Most scores are exactly zero and the boundary falls inside the plateau."""
    arguments = _case("", 1, 3, 4, 600, 64, 2400).make(seed)
    keys = arguments["keys"]
    assert isinstance(keys, mx.array)
    arguments["keys"] = mx.where(mx.arange(600)[:, None] % 16 == 3, keys, 0.0)
    return arguments


KERNEL = Kernel(
    name="index_topk",
    summary="lightning-indexer scores and exact top-k, ties to the lowest index",
    reference=index_topk,
    inputs={"q": "B S H K", "head_weights": "B S H", "keys": "B T K"},
    outputs={"selected": "B S k"},
    tolerance=0.0,
    cases=(
        _case("decode", 1, 1, 64, 5000, 512, 19999),
        _case("fewer-than-k", 2, 5, 32, 40, 512, 155),
        _case("boundary-inside-chunk", 1, 33, 32, 70, 16, 250),
        _case("ties", 1, 7, 8, 513, 64, 2048, grid=1),
        Case("relu-plateau", _relu_plateau),
    ),
)
