"""Which dialect answers at which path."""

from cli.serve.chat_completions import ChatCompletions
from cli.serve.dialect import Dialect, TokenCounter


def dialects() -> dict[str, Dialect]:
    """All paths that answer."""
    return {"/v1/chat/completions": ChatCompletions()}


def counters() -> dict[str, TokenCounter]:
    """All paths that count the tokens of a prompt."""
    return {}


def dialect_at(path: str, known: dict[str, Dialect]) -> Dialect:
    """The dialect whose errors a client at `path` understands: the one that answers there or at the
    beginning of it, else the first."""
    at = next((known[one] for one in known if path == one or path.startswith(f"{one}/")), None)
    return at or next(iter(known.values()))
