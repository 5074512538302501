"""The values that options offer are those of the parts that take them.

`cli/model_options.py` spells them itself, so that help is shown without importing those parts.
"""

from cli import model_options as options
from dsv4_mlx.cache import KV_CHOICES
from dsv4_mlx.chat.effort import EFFORT_TABLES
from dsv4_mlx.chat.settings import thinking_levels
from metal_kernels.backend import BACKENDS


def test_levels_are_those_of_any_table() -> None:
    known = {level for table in EFFORT_TABLES for level in thinking_levels(table)}
    assert set(options.LEVELS) == known
    assert all(set(thinking_levels(table)) <= set(options.LEVELS) for table in EFFORT_TABLES)


def test_effort_tables_backends_and_caches_are_those_that_exist() -> None:
    assert ("auto", *EFFORT_TABLES) == options.EFFORT_TABLES
    assert ("auto", *BACKENDS) == options.BACKENDS
    assert set(options.KV_CHOICES) == set(KV_CHOICES)
