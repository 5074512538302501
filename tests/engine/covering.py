"""Covering arrays: few cases in which every pair of values of two columns occurs."""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Case = dict[str, Any]
_Pair = tuple[int, int, int, int]  # a column and the place of its value, another and its value's
_TRIES = 12


def covering(columns: Mapping[str, Sequence[Any]], cost: Callable[[Case], float]) -> list[Case]:
    """Cases with a value of every column: every two values of two columns are in one of them.

    One case after the other, of several tries the one with the most new pairs for what it costs.
    """
    rng, values = random.Random(0), list(columns.values())
    missing = {
        (one, a, other, b)
        for one, other in itertools.combinations(range(len(values)), 2)
        for a, b in itertools.product(range(len(values[one])), range(len(values[other])))
    }

    def case(places: Sequence[int]) -> Case:
        return {name: columns[name][place] for name, place in zip(columns, places, strict=True)}

    cases = []
    while missing:
        tries = [_tried(values, missing, rng) for _ in range(_TRIES)]
        best = max(tries, key=lambda places: len(_new(places, missing)) / cost(case(places)))
        missing -= _new(best, missing)
        cases.append(case(best))
    return cases


def _tried(values: list[Sequence[Any]], missing: set[_Pair], rng: random.Random) -> list[int]:
    """A case around a missing pair; each further column takes what makes the most new pairs."""
    one, a, other, b = rng.choice(sorted(missing))
    chosen = {one: a, other: b}
    for column in rng.sample(range(len(values)), len(values)):
        if column not in chosen:
            gains = [
                sum(_pair(column, place, *pair) in missing for pair in chosen.items())
                for place in range(len(values[column]))
            ]
            most = max(gains)
            chosen[column] = rng.choice([p for p, gain in enumerate(gains) if gain == most])
    return [chosen[column] for column in range(len(values))]


def _pair(one: int, a: int, other: int, b: int) -> _Pair:
    return (one, a, other, b) if one < other else (other, b, one, a)


def _new(case: Sequence[int], missing: set[_Pair]) -> set[_Pair]:
    pairs = {(*one, *other) for one, other in itertools.combinations(enumerate(case), 2)}
    return pairs & missing
