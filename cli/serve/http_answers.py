"""Whole answers over ASGI, and the little of its types that this room needs."""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from cli.serve.dialect import ErrorBody
from cli.serve.faults import Fault

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

RETRY_S = 5
_RETRIED = ("crowded", "busy", "waited", "unavailable", "too_often")


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header, None where it is not there or more than once."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1") if len(found) == 1 else None


def with_headers(send: Send, headers: Headers) -> Send:
    """`send` with more headers on whatever it begins to send."""
    added = list(headers)

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *added]
        await send(message)

    return sending


async def send_json(
    send: Send, status: int, body: Mapping[str, Any], headers: Headers = ()
) -> None:
    """Send a body of JSON."""
    content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    await send_content(send, status, b"application/json", content, headers)


async def send_content(
    send: Send, status: int, kind: bytes, content: bytes, headers: Headers = ()
) -> None:
    """Send a body of any type."""
    length = (b"content-length", str(len(content)).encode())
    start = [(b"content-type", kind), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": content})


async def send_fault(send: Send, fault: Fault, error: ErrorBody) -> None:
    """Send what a dialect has for `fault`; when to come again, and to close where the rest of the
    body is still on its way or connections are too many."""
    headers = []
    if fault.kind in _RETRIED:
        headers.append((b"retry-after", str(RETRY_S).encode()))
    if fault.kind in ("too_large", "slow_body", "crowded"):
        headers.append((b"connection", b"close"))
    if fault.kind == "unauthorized":
        headers.append((b"www-authenticate", b"Bearer"))
    await send_json(send, error.status, error.body, headers)
