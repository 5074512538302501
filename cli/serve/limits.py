"""What a client may ask of the server itself: bytes, depth, seconds and how often.

Seconds are those of the event loop's clock, from one look at a client to another those of a clock
that is handed in. Frameworks wait for a header or a body without end, so both have a limit here;
what is too large is refused by what its header says, and again by what comes.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from cli.serve.faults import RequestFault
from cli.serve.http_answers import Receive, Scope, header
from dsv4_mlx.files.documents import DocumentError, kind_of, parse_json

_ESCAPES: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
"""Everything a JSON text escapes; half of a surrogate pair in a group."""


@dataclass(frozen=True)
class HttpLimits:
    """Limits of one server."""

    body_bytes: int = 64 << 20
    large_bytes: int = 8 << 20
    """From here on a body is large, and only `large_bodies` are read at once."""
    large_bodies: int = 4
    header_bytes: int = 64 << 10
    header_s: float = 20.0
    """From the first byte of a request to the end of its header."""
    body_s: float = 60.0
    """From there to the end of its body."""
    first_event_s: float = 0.5
    """How long a stream waits before it begins, for a refusal to have a status of its own."""
    heartbeat_s: float = 8.0
    """Seconds without a frame after which one says that the server is alive."""
    progress_s: float = 0.25
    """Seconds between comments on how far a prompt is read, where comments are signs of life."""
    frame_gap_s: float = 1 / 30
    """Seconds between frames of a stream where many requests are answered."""
    write_s: float = 120.0
    """How long a client that reads nothing is waited for."""
    look_s: float = 0.5
    """How often is looked whether a client reads the rest of its answer."""
    rest_s: int = 150
    """How long a connection stays open after an answer: longer than clients and proxies keep theirs
    (Caddy two minutes), or a server ends it just as the next request is on its way."""
    connections: int = 512
    requests_per_minute: int = 1200
    """Of one client."""
    wrong_keys_per_minute: int = 30


class BodyReader:
    """Reads the bodies of one server's requests, only a few large ones at once."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._large = asyncio.Semaphore(limits.large_bodies)

    async def read(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """The JSON object in a request's body; RequestFault for anything else, or for one that is
        too large or does not come."""
        limits, told = self._limits, header(scope, b"content-length")
        if told is not None and told.isdigit() and int(told) > limits.body_bytes:
            raise _too_large(limits)
        async with AsyncExitStack() as holding:
            try:
                async with asyncio.timeout(limits.body_s):
                    content = await self._content(receive, holding)
            except TimeoutError:
                raise RequestFault(
                    "slow_body",
                    f"The body did not come within {limits.body_s:g} seconds; send it again.",
                ) from None
            return await asyncio.to_thread(parsed_body, content)

    async def _content(self, receive: Receive, holding: AsyncExitStack) -> bytes:
        pieces, size, has_more, is_large = [], 0, True, False
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestFault("invalid", "The client left before its body was there.")
            piece = message.get("body", b"")
            pieces.append(piece)
            size += len(piece)
            if size > self._limits.body_bytes:
                raise _too_large(self._limits)
            if size > self._limits.large_bytes and not is_large:
                is_large = True
                await holding.enter_async_context(self._large)
            has_more = message.get("more_body", False)
        return b"".join(pieces)


def _too_large(limits: HttpLimits) -> RequestFault:
    return RequestFault(
        "too_large", f"The body has more than the {limits.body_bytes:,} bytes that are read."
    )


def parsed_body(content: bytes) -> dict[str, Any]:
    """The JSON object in `content`. Half a surrogate pair, as programs make it that cut texts, is
    read as the character that stands for what is lost: the conversation goes on."""
    if b"\\u" in content:
        content = _ESCAPES.sub(lambda found: b"\\ufffd" if found[1] else found[0], content)
    try:
        body = parse_json(content)
    except DocumentError as error:
        raise RequestFault("invalid", f"The body {error}; send a JSON object.") from error
    if not isinstance(body, dict):
        raise RequestFault("invalid", f"The body is {kind_of(body)}; send a JSON object.")
    return body


class RateLimit:
    """How often each of many may do something in a minute, by `clock`."""

    def __init__(self, per_minute: int, clock: Callable[[], float], most_known: int = 4096) -> None:
        self._per_minute, self._clock, self._most_known = per_minute, clock, most_known
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What each may still do at once, and when that was so."""

    def allows(self, who: str) -> bool:
        """Whether `who` may do it now, which counts then."""
        left = self.left(who)
        is_allowed = left >= 1
        self._left[who] = (left - is_allowed, self._clock())
        self._left.move_to_end(who)
        while len(self._left) > self._most_known:
            self._left.popitem(last=False)
        return is_allowed

    def left(self, who: str) -> float:
        """How often `who` may do it at once."""
        most, now = float(self._per_minute), self._clock()
        left, since = self._left.get(who, (most, now))
        return min(most, left + (now - since) * most / 60)
