"""What `/context` says, and what it says about drafts."""

from types import SimpleNamespace
from typing import Any

import pytest

from cli.talk.commands import COMMANDS
from dsv4_mlx.chat.model_side import ContextUse
from dsv4_mlx.engine.expert_use import ExpertUse

SIZES = "1,200 of 4,096 tokens; window 2.0 MiB, compressed 3.0 MiB, index 0.0 MiB"


def noted(is_remote: bool = False, **changes: Any) -> str:
    """The line that `/context` leaves for this use."""
    use = ContextUse(1200, 4096, window_bytes=2 << 20, compressed_bytes=3 << 20, **changes)
    notes: list[str] = []
    chat = SimpleNamespace(
        opened=lambda: SimpleNamespace(context=lambda: use),
        note=notes.append,
        model=SimpleNamespace(is_remote=is_remote),
    )
    COMMANDS["context"].action(chat, "")  # type: ignore[arg-type]
    (note,) = notes
    return note


def test_context_says_what_was_read_of_tables_in_files() -> None:
    reads = {"kept": 1200, "ahead": 30, "missed": 4, "bytes": 3 << 20}
    words = (
        "; of 1,234 rows of Engram's tables 1,200 were kept, 30 asked for ahead, 4 waited for, "
        "3.0 MiB read"
    )
    assert noted(table_reads=reads) == SIZES + words
    assert noted(table_reads=dict.fromkeys(reads, 0)) == SIZES


def test_context_says_what_was_found_of_experts_in_files() -> None:
    words = "; 27 experts of each layer in memory"
    assert noted(experts=ExpertUse(27)) == SIZES + words
    used = ExpertUse(27, hits=900, misses=300, bytes_read=3 << 20, waited_s=1.26)
    found = ": of 1,200 that were wanted 75% were there, 3.0 MiB read, waited 1.3 s"
    assert noted(experts=used) == SIZES + words + found


@pytest.mark.parametrize(
    ("know", "words"),
    [
        (None, ""),  # nothing drafts, or the text alone is enough
        (0, "; drafts begin cold"),
        (1, "; drafts know the last 1 tokens"),
        (1199, "; drafts know the last 1,199 tokens"),
        (1200, ""),  # all of them, as it should be
    ],
)
def test_context_says_what_drafts_are_made_from(know: int | None, words: str) -> None:
    assert noted(drafts_know=know) == SIZES + words


def test_context_of_a_servers_model_says_whose_the_memory_is() -> None:
    said = "1,200 of 4,096 tokens; what they take in memory is the server's"
    assert noted(is_remote=True) == said
