"""Few calls that still try every pair of sizes: most size bugs need one or two sizes to meet."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest


def pairwise(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Choices, one value per axis, in which any two values of any two axes occur together.

    Greedy and always the same: each choice is the product's first that covers most open pairs.
    """
    counts = [len(values) for values in axes.values()]
    everything = np.indices(counts).reshape(len(counts), -1).T
    pairs = _pairs(everything, counts)
    missing = np.zeros(pairs.max() + 1, bool)
    missing[pairs] = True
    chosen = []
    while missing.any():
        best = int(missing[pairs].sum(1).argmax())
        missing[pairs[best]] = False
        places = zip(axes.items(), everything[best], strict=True)
        chosen.append({name: values[place] for (name, values), place in places})
    return chosen


def _pairs(choices: np.ndarray, counts: list[int]) -> np.ndarray:
    """[choices, pairs of axes]: a number for each two values, of one axis where there is one."""
    if len(counts) == 1:
        return choices
    columns, first = [], 0
    for one, other in combinations(range(len(counts)), 2):
        columns.append(first + choices[:, one] * counts[other] + choices[:, other])
        first += counts[one] * counts[other]
    return np.stack(columns, axis=1)


def thinned(choices: Sequence[dict[str, Any]]) -> list[Any]:
    """Every third choice for the plain suite, which runs a kernel's declared cases too; the others
    for the slow one."""
    return [
        pytest.param(sizes, id=sizes_id(sizes), marks=[pytest.mark.slow] * (number % 3 > 0))
        for number, sizes in enumerate(choices)
    ]


def sizes_id(sizes: dict[str, Any]) -> str:
    """`M=1-D=131`: a readable id for pytest."""
    return "-".join(f"{n}={str(v).removeprefix('mlx.core.')}" for n, v in sizes.items())
