"""Which dialect answers at which path."""

from dataclasses import dataclass
from pathlib import Path

from cli.serve.chat_completions import ChatCompletions
from cli.serve.completions import CompletionsDialect
from cli.serve.dialect import Dialect, TokenCounter
from cli.serve.http_answers import Scope, header
from cli.serve.kept_route import KeptRoute
from cli.serve.messages import MessagesCounter, MessagesDialect
from cli.serve.responses import ResponsesDialect
from cli.serve.responses_kept import KeptResponses
from cli.serve.sealing import Seals

_RESPONSES = "responses"


@dataclass(frozen=True)
class Dialects:
    """Those that answer and those that count the tokens of a prompt, by their paths, and what gives
    out answers that were kept."""

    answers: dict[str, Dialect]
    counts: dict[str, TokenCounter]
    kept: dict[str, KeptRoute]

    @classmethod
    def kept_in(cls, folder: Path | None) -> "Dialects":
        """All of them; what outlives the program lies in `folder`, if that is given.

        OSError for a folder that cannot be used.
        """
        seals = Seals.for_now() if folder is None else Seals.kept_in(folder)
        kept = KeptResponses(None if folder is None else folder / _RESPONSES)
        responses = ResponsesDialect(seals, kept)
        answers: dict[str, Dialect] = {
            "/v1/chat/completions": ChatCompletions(),
            "/v1/messages": MessagesDialect(seals),
            "/v1/responses": responses,
            "/v1/completions": CompletionsDialect(),
        }
        counts: dict[str, TokenCounter] = {"/v1/messages/count_tokens": MessagesCounter(seals)}
        return cls(answers, counts, {"/v1/responses/{name}": KeptRoute(responses)})

    def at(self, scope: Scope) -> Dialect:
        """The dialect whose errors a client understands: the one that answers at its path or at the
        beginning of it; elsewhere that of its headers, or the first."""
        path, known = scope["path"], self.answers
        for one in known:
            if path == one or path.startswith(f"{one}/"):
                return known[one]
        is_anthropic = header(scope, b"anthropic-version") is not None
        return known["/v1/messages"] if is_anthropic else next(iter(known.values()))
