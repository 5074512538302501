"""uvicorn's reader of HTTP with what it lacks: an end for headers that do not come, or are huge."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cli.serve.limits import HttpLimits

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"
_CLOSING = b"content-length: 0\r\nconnection: close\r\n\r\n"


class WatchedProtocol(HttpToolsProtocol):
    """One connection. A request's scope gets `abort`, which ends it with all that is unsent,
    `unsent`, which tells the bytes of that until the next request comes, and `is_crowding`, whether
    it came when as many were open as are served, and still are."""

    limits: ClassVar[HttpLimits] = HttpLimits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._header_bytes = 0
        self._is_in_header, self._is_crowding = True, False
        self._watch: asyncio.TimerHandle | None = None
        self._requests = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; from now on it has so long to ask."""
        super().connection_made(transport)
        self._is_crowding = len(self.connections) > self.limits.connections
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._end_watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More of a request, or of several."""
        if self._is_in_header:
            self._header_bytes += len(data)
            if self._watch is None:
                self._expect_header()
        super().data_received(data)
        if self._is_in_header and self._header_bytes > self.limits.header_bytes:
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins, perhaps behind another one."""
        super().on_message_begin()
        if self._watch is None:
            self._expect_header()

    def on_headers_complete(self) -> None:
        """The header is there, and its body follows."""
        self._is_in_header = False
        self._end_watch()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse(_TOO_LARGE)
            return
        told: Any = self.scope
        is_crowding = self._is_crowding and len(self.connections) > self.limits.connections
        told |= {
            "abort": self.transport.abort,
            "unsent": self._unsent_now(),
            "is_crowding": is_crowding,
        }
        super().on_headers_complete()

    def _unsent_now(self) -> Callable[[], int]:
        self._requests += 1
        number, transport = self._requests, self.transport

        def unsent() -> int:
            return transport.get_write_buffer_size() if number == self._requests else 0

        return unsent

    def on_message_complete(self) -> None:
        """The body is there; what follows is the next request."""
        self._is_in_header, self._header_bytes = True, 0
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """More of a body."""
        if not self.transport.is_closing():
            super().on_body(body)

    def _expect_header(self) -> None:
        self._watch = self.loop.call_later(self.limits.header_s, self._refuse, _TOO_SLOW)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _refuse(self, status: bytes) -> None:
        self._end_watch()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is on its way: nothing more is read, and its end is that of the connection.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        self.transport.write(status + _CLOSING)
        self.transport.close()
