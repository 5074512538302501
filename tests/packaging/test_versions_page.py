"""docs/versions.md names the versions that the code writes and reads."""

import re
from pathlib import Path

import pytest

from cli.kept import session_replay
from convert import importance, plan
from dsv4_mlx.cache import file as cache_file

PAGE = Path(__file__).parents[2] / "docs" / "versions.md"
WHOLE = [version for version in cache_file.READABLE if version <= cache_file.VERSION]
READ = f"{', '.join(WHOLE[:-1])} and {WHOLE[-1]}"


def row(kept: str) -> list[str]:
    """The cells after the first of the row about `kept`."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if kept in line]
    assert len(lines) == 1, kept
    return [cell.strip() for cell in lines[0].strip("|").split("|")][1:]


@pytest.mark.parametrize(
    "kept, version",
    [
        ("sessions/*.jsonl", session_replay.VERSION),
        ("sessions/*.kv", cache_file.VERSION),
        ("prefixes/*.kv", cache_file.VERSION),
        ("`conversion.json`", plan.FORMAT_VERSION),
        ("importance files", importance.VERSION),
    ],
)
def test_the_page_names_the_version_that_is_written(kept: str, version: object) -> None:
    assert row(kept)[0] == f"version {version}"


@pytest.mark.parametrize("kept", ["sessions/*.kv", "prefixes/*.kv"])
def test_the_page_names_the_versions_of_caches_that_are_read(kept: str) -> None:
    assert re.match(rf"reads version {READ}\b", row(kept)[1])
