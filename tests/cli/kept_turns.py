"""Sessions for tests, and what a store says about them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cli.kept.session_log import SessionLog
from cli.kept.sessions import Saved, SessionStore
from dsv4_mlx.chat.turns import Turn


class Clock:
    """A clock that a test sets; it never stands still, since two records are never at once."""

    def __init__(self) -> None:
        self.now = datetime(2025, 11, 24, 21, 50, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def set(self, seconds: float) -> None:
        """So many seconds after the year began."""
        self.now = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def store(folder: Path, kv_budget_bytes: int = 1 << 30, **named: Any) -> SessionStore:
    return SessionStore(folder / "sessions", kv_budget_bytes=kv_budget_bytes, **named)


def turn(asked: str, said: str = "Yes.") -> Turn:
    """A turn with one answer; its tokens are made up."""
    messages = (
        {"role": "user", "content": asked},
        {"role": "assistant", "content": said, "reasoning_content": "", "tool_calls": []},
    )
    return Turn(messages, (tuple(range(len(said))),))


def begun(sessions: SessionStore, *asked: str, name: str | None = None) -> SessionLog:
    """An open session with these turns."""
    log = sessions.create("a model", name=name)
    for text in asked:
        log.begin_turn(text)
        log.add_turn(turn(text))
    return log


def texts(saved: Saved) -> list[str]:
    return [one.text for one in saved.turns]
