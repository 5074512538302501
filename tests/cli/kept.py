"""Sessions for tests, and what a store says about them."""

from pathlib import Path

from cli.kept.session_log import SessionLog
from cli.kept.sessions import Saved, SessionStore
from dsv4_mlx.chat.turns import Turn


def store(folder: Path, kv_budget_bytes: int = 1 << 30) -> SessionStore:
    return SessionStore(folder / "sessions", kv_budget_bytes=kv_budget_bytes)


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
