"""Which dialect answers at which path."""

from cli.serve.chat_completions import ChatCompletions
from cli.serve.dialect import Dialect, TokenCounter
from cli.serve.messages import MessagesCounter, MessagesDialect
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.sealing import Seals


def dialects() -> dict[str, Dialect]:
    """All paths that answer."""
    seals = Seals.for_now()
    return {
        "/v1/chat/completions": ChatCompletions(),
        "/v1/messages": MessagesDialect(seals),
        "/v1/responses": ResponsesDialect(seals, KeptResponses()),
    }


def counters() -> dict[str, TokenCounter]:
    """All paths that count the tokens of a prompt."""
    return {"/v1/messages/count_tokens": MessagesCounter(Seals.for_now())}


def dialect_at(path: str, known: dict[str, Dialect]) -> Dialect:
    """The dialect whose errors a client at `path` understands: the one that answers there or at the
    beginning of it, else the first."""
    at = next((known[one] for one in known if path == one or path.startswith(f"{one}/")), None)
    return at or next(iter(known.values()))
