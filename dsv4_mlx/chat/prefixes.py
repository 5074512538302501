"""Beginnings of prompts kept as cache files, so that another run needs not read them again.

What other prompts are likely to share is the system part and the attached files. A file is found by
its token ids, so an outdated or foreign one never changes an answer; a damaged one is removed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dsv4_mlx.errors import CacheError

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.engine.session import Session

LOOK_BACK = 64
MARGIN = 16


class Prefixes(Protocol):
    """Where the beginnings of prompts lie on disk."""

    def find(self, tokens: Sequence[int]) -> Path | None:
        """The file of the longest stored beginning of these tokens."""
        ...

    def keep(self, tokens: Sequence[int]) -> Path | None:
        """Where to store these tokens; None when they are not worth it or stored already."""
        ...


def stable_length(
    tokens: Sequence[int], alone: Sequence[int], bytes_of: Callable[[int], bytes]
) -> int:
    """How many of `tokens` stay the same whatever follows the shared text.

    `alone` are the tokens of a prompt that ends with the shared text. Where the two part, the last
    word may be split differently by other text after it. The end of a line is a border that no
    tokenizer of this family crosses; without one in reach, a few tokens are given up.
    """
    common = next((i for i, (a, b) in enumerate(zip(tokens, alone, strict=False)) if a != b), None)
    end = min(len(tokens), len(alone)) if common is None else common
    for length in range(end - 1, max(end - LOOK_BACK, 0), -1):
        following = bytes_of(tokens[length])
        if bytes_of(tokens[length - 1]).endswith(b"\n") and not following[:1].isspace():
            return length
    return max(end - MARGIN, 0)


def started(engine: "Engine", tokens: Sequence[int], prefixes: Prefixes | None) -> "Session":
    """A session that holds the longest stored beginning of `tokens`, or nothing."""
    # Never all of them: reading the last token gives the logits.
    beginning = tokens[:-1]
    tried: set[Path] = set()
    while (path := _found(beginning, prefixes)) is not None and path not in tried:
        tried.add(path)
        session = engine.session()
        try:
            session.load(path)
        except (CacheError, OSError):
            with suppress(OSError):
                path.unlink()
            continue
        if session.tokens == list(tokens[: len(session)]):
            return session
        break
    return engine.session()


def _found(tokens: Sequence[int], prefixes: Prefixes | None) -> Path | None:
    with suppress(OSError):
        return prefixes.find(tokens) if prefixes else None
    return None


def wanted(tokens: Sequence[int], lengths: Iterable[int], prefixes: Prefixes) -> dict[int, Path]:
    """Lengths, of `lengths`, whose beginnings `prefixes` wants to have, each with its path."""
    paths: dict[int, Path] = {}
    for length in lengths:
        with suppress(OSError):
            path = prefixes.keep(tokens[:length])
            if path is not None:
                paths[length] = path
    return paths


def keep(session: "Session", paths: Mapping[int, Path]) -> None:
    """Store the beginnings of `session`; what cannot be written is read again another time."""
    for length, path in paths.items():
        with suppress(CacheError, OSError, RuntimeError):
            session.save_place(path, length)
