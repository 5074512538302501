"""Asking a server over HTTP with the standard library: values in, values and lines of streams out.

Every call has a connection of its own, so that any thread may make one and a server that was
started anew is found again.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from cli.safe import exact
from dsv4_mlx.errors import ContextError, Dsv4Error, UsageError
from dsv4_mlx.files.documents import DocumentError, parse_json

_CONNECT_S = 10.0
_SILENCE_S = 60.0
"""A server shows a sign of life every eight seconds, whatever it does."""
_LOOK_S = 0.05
_LONGEST_LINE = 16 << 20
_LONGEST_BODY = 64 << 20


class ServerError(Dsv4Error):
    """A server that is not there, fails, or does not do what it was asked for."""


class NotOffered(ServerError):
    """What was asked for is nothing that this server has."""


class TooLong(ServerError, ContextError):
    """A prompt that the server's model does not hold."""


@dataclass(frozen=True)
class ServerPlace:
    """Where a server is."""

    scheme: str
    host: str
    port: int
    path: str
    """Before `/v1`; mostly nothing."""

    @classmethod
    def of(cls, url: str) -> "ServerPlace":
        """What `--server` names, with or without `/v1`; UsageError for anything else."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.scheme not in ("http", "https") or parts.query or "@" in parts.netloc:
            raise UsageError(f"--server takes http://HOST:PORT, got {url!r}.")
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return cls(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


@dataclass(frozen=True)
class Comment:
    """What a server says in a stream to show that it lives."""

    text: str


class ServerClient:
    """Calls to one server; `key` opens it, "" is none."""

    def __init__(self, place: ServerPlace, key: str = "") -> None:
        self.place = place
        self._key = key

    def get(self, path: str, even: int = 200) -> Any:
        """The JSON at `path`, of an answer of status `even` too; ServerError."""
        return self._whole("GET", path, None, even)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers `body`; ServerError."""
        return self._whole("POST", path, body)

    def stream(
        self, path: str, body: Mapping[str, Any], cancelled: Flag
    ) -> Iterator[dict[str, Any] | Comment]:
        """The data and comments of the stream that answers `body`, as they come.

        It ends early, without an error, once `cancelled` is set, and the server then sees the
        connection end. ServerError when that ends by itself before `[DONE]`.
        """
        call = _StreamCall(self._connection(_SILENCE_S), path, body, self._headers(), self.place)
        try:
            while not cancelled.is_set():
                line = call.next_line(_LOOK_S)
                if line is None:
                    continue
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield self._data(line[6:])
                elif line.startswith(":"):
                    yield Comment(line[1:].strip())
        finally:
            call.end()

    def _data(self, text: str) -> dict[str, Any]:
        data = self._parsed(text)
        if not isinstance(data, dict):
            raise ServerError(f"{self.place} sent what is no event of an answer.")
        if data.get("error"):
            raise ServerError(_said(data, self.place))
        return data

    def _whole(
        self, method: str, path: str, body: Mapping[str, Any] | None, even: int = 200
    ) -> Any:
        connection = self._connection(_SILENCE_S)
        try:
            response = _response(connection, method, path, body, self._headers(), self.place)
            content = response.read(_LONGEST_BODY)
        except (OSError, HTTPException) as error:
            raise _gone(self.place, error) from error
        finally:
            connection.close()
        if response.status != even:
            _check_status(response.status, content, self.place, bool(self._key))
        return self._parsed(content.decode("utf-8", "replace"))

    def _parsed(self, text: str) -> Any:
        try:
            return parse_json(text)
        except DocumentError as error:
            raise ServerError(f"{self.place} sent what is no JSON: {error}") from error

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "dsv4-chat"}
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _connection(self, timeout_s: float) -> HTTPConnection:
        kind = HTTPSConnection if self.place.scheme == "https" else HTTPConnection
        return kind(self.place.host, self.place.port, timeout=timeout_s)


class _StreamCall:
    """One stream, read by a thread, since reading blocks and a person may want no more of it."""

    def __init__(
        self,
        connection: HTTPConnection,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str],
        place: ServerPlace,
    ) -> None:
        self._connection, self._place = connection, place
        self._socket: socket.socket | None = None
        self._has_ended = False
        self._lines: SimpleQueue[str | Dsv4Error] = SimpleQueue()
        work = (path, dict(body), dict(headers))
        Thread(target=self._read, args=work, name="server", daemon=True).start()

    def next_line(self, timeout_s: float) -> str | None:
        """The next line, None where none came in time; ServerError at an end that was not due."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(line, Dsv4Error):
            raise line
        return line

    def end(self) -> None:
        """Close the connection, whatever the thread waits for."""
        self._has_ended = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _read(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        try:
            self._connect()
            response = _response(self._connection, "POST", path, body, headers, self._place)
            if response.status != 200:
                content, has_key = response.read(_LONGEST_BODY), "Authorization" in headers
                _check_status(response.status, content, self._place, has_key)
            while (line := response.readline(_LONGEST_LINE)) and not self._has_ended:
                self._lines.put(line.decode("utf-8", "replace").rstrip("\r\n"))
            self._lines.put(_cut_off(self._place))
        except Dsv4Error as error:
            self._lines.put(error)
        except (OSError, HTTPException, ValueError) as error:
            self._lines.put(_gone(self._place, error))
        finally:
            self._connection.close()

    def _connect(self) -> None:
        self._connection.timeout = _CONNECT_S
        try:
            self._connection.connect()
        except OSError as error:
            raise _gone(self._place, error) from error
        self._socket = self._connection.sock
        self._connection.sock.settimeout(_SILENCE_S)
        if self._has_ended:
            self.end()


def _response(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    place: ServerPlace,
) -> HTTPResponse:
    content = None if body is None else json.dumps(body).encode()
    connection.request(method, place.path + path, content, dict(headers))
    return connection.getresponse()


def _cut_off(place: ServerPlace) -> ServerError:
    return ServerError(
        f"{place} ended in the middle of an answer; look at it, and send the message again."
    )


def _gone(place: ServerPlace, error: BaseException) -> ServerError:
    if isinstance(error, TimeoutError):
        return ServerError(f"{place} says nothing; is the server well?")
    if isinstance(error, ConnectionRefusedError | socket.gaierror):
        return ServerError(
            f"{place} does not answer; start it with dsv4-chat serve, or look at it."
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ServerError(f"{place} is gone: {exact(reason) or type(error).__name__}.")


def _check_status(status: int, content: bytes, place: ServerPlace, has_key: bool) -> None:
    if status == 200:
        return
    try:
        body = parse_json(content.decode("utf-8", "replace"))
    except DocumentError:
        body = None
    if status == 401:
        raise ServerError(
            f"{place} does not take the key in DSV4_API_KEY; set it to one of the server's."
            if has_key
            else f"{place} asks for its key; set DSV4_API_KEY to it."
        )
    error = body.get("error") if isinstance(body, Mapping) else None
    kind = NotOffered if status in (404, 405) else ServerError
    if isinstance(error, Mapping) and error.get("code") == "context_length_exceeded":
        kind = TooLong
    raise kind(_said(body, place, status))


def _said(body: object, place: ServerPlace, status: int | None = None) -> str:
    """The sentence of an error's body."""
    error = body.get("error") if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    if isinstance(message, str) and message:
        return exact(message)
    return f"{place} answered with an error{'' if status is None else f', status {status}'}."
