"""The lists of words in `words.toml`."""

from __future__ import annotations

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
