"""What `/context` says, and what it says about drafts."""

from types import SimpleNamespace
from typing import Any

import pytest

from cli.talk.commands import COMMANDS
from dsv4_mlx.chat.model_side import ContextUse

SIZES = "1,200 of 4,096 tokens; window 2.0 MiB, compressed 3.0 MiB, index 0.0 MiB"


def noted(**changes: Any) -> str:
    """The line that `/context` leaves for this use."""
    use = ContextUse(1200, 4096, window_bytes=2 << 20, compressed_bytes=3 << 20, **changes)
    notes: list[str] = []
    chat = SimpleNamespace(opened=lambda: SimpleNamespace(context=lambda: use), note=notes.append)
    COMMANDS["context"].action(chat, "")  # type: ignore[arg-type]
    (note,) = notes
    return note


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
