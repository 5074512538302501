"""The lists of words in `words.toml`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

from dsv4_mlx.files.documents import parse_toml


@lru_cache(maxsize=1)
def _lists() -> dict[str, tuple[str, ...]]:
    tables = parse_toml(resources.files(__package__).joinpath("words.toml").read_bytes())
    return {name: tuple(text.split()) for name, text in tables.items()}


def words(name: str) -> tuple[str, ...]:
    """The list of that name, in the order of the file."""
    return _lists()[name]


_COINED = 0.5


def coined(rng: random.Random) -> str:
    """A word of two or three syllables that is in no list, such as `droluma`."""
    syllables = range(rng.randint(2, 3))
    begun = [rng.choice(words("onsets")) + rng.choice(words("vowels")) for _ in syllables]
    return "".join(begun) + rng.choice(words("codas")).strip("-")


def lesson_word(rng: random.Random, listed: Sequence[str]) -> str:
    """A word for a lesson: half of them are of no list, so that they have to be copied letter by
    letter, which a model that has learned a list by heart cannot do."""
    return coined(rng) if rng.random() < _COINED else rng.choice(listed)
