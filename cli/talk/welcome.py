"""What a person is told who has not talked to this program yet."""

from pathlib import Path

HINT = "Ask something, or / for commands"
"""Stands in the empty input until the first key."""

WELCOME = (
    "DeepSeek-V4 in your terminal. nano, built in, knows this program and easy sums.",
    "Flash (149 GiB): dsv4-convert fetch deepseek-ai/DeepSeek-V4-Flash V4; --model V4",
)


def is_first(root: Path | None) -> bool:
    """Whether nothing has been said and kept in the state folder `root` yet."""
    return root is not None and not any((root / name).exists() for name in ("history", "sessions"))
