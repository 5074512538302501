"""What tests/processors.py names is there: a test of another name would run, or be left out."""

from pathlib import Path

import pytest

from tests.processors import GROUPS, LEFT_OUT

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [*GROUPS, *LEFT_OUT])
def test_what_is_named_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    assert (ROOT / file).exists()
    assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")
