"""What a route hands a request to."""

import secrets
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TextIO

from cli.serve.dialect import Dialect
from cli.serve.faults import Fault
from cli.serve.http_answers import Receive, Scope, Send, send_fault

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


def random_id(kind: str) -> str:
    """An id that nothing else has."""
    return f"{kind}{secrets.token_hex(12)}"


class Endpoint:
    """A handler that a route hands everything to; what it raises by mistake is an answer too."""

    def __init__(
        self, handler: Handler, dialect: Callable[[Scope], Dialect], errors: TextIO
    ) -> None:
        self._handler, self._dialect, self._errors = handler, dialect, errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sending(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._handler(scope, receive, sending)
        except Exception as error:
            name = random_id("req_")
            self._errors.write(f"dsv4-chat: {name}\n{_where(error)}")
            if has_begun:
                raise
            fault = Fault("failed", f"The server failed; its log says how, at {name}.")
            await send_fault(send, fault, self._dialect(scope).error(fault))


def _where(error: BaseException | None) -> str:
    """Kinds and places of an error and of those before it; what they say may be of a prompt."""
    if error is None:
        return ""
    places = "".join(traceback.format_tb(error.__traceback__))
    return f"{_where(error.__cause__ or error.__context__)}{places}{type(error).__name__}\n"
