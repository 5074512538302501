"""Few calls that still try every pair of sizes: most size bugs need one or two sizes to meet."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def pairwise(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Choices, one value per axis, in which any two values of any two axes occur together.

    Greedy and always the same: each choice is the product's first that covers most open pairs.
    """
    names, everything = list(axes), list(product(*axes.values()))
    pairs = {choice: _pairs(choice) for choice in everything}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        best = max(everything, key=lambda choice: len(pairs[choice] & missing))
        missing -= pairs[best]
        chosen.append(dict(zip(names, best, strict=True)))
    return chosen


def _pairs(choice: tuple[Any, ...]) -> set[tuple[Any, ...]]:
    placed = list(enumerate(choice))
    return set(combinations(placed, 2)) if len(placed) > 1 else {(placed[0],)}


def sizes_id(sizes: dict[str, Any]) -> str:
    """`M=1-D=131`: a readable id for pytest."""
    return "-".join(f"{n}={str(v).removeprefix('mlx.core.')}" for n, v in sizes.items())
