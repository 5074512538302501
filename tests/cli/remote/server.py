"""A server that says what a test tells it to, over a real socket."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event as Flag
from threading import Thread
from typing import Any

MODEL = {"id": "flash", "context_length": 4096, "effort_table": "2026-07-31"}


class ToldServer:
    """What it is told to say, and what it was asked.

    Of an answer's parts values are data, texts are lines as they are, a flag waits until the client
    leaves, and None ends the connection.
    """

    def __init__(self) -> None:
        self.answers: list[Sequence[Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.model: dict[str, Any] = dict(MODEL)
        self.counted: int | None = None
        """What is told of tokens; None tells nothing."""
        self.error: tuple[int, Any] | None = None
        self.health: tuple[int, Any] = (404, {"error": {"message": "There is nothing here."}})
        self.left = Flag()
        """Set once a client was seen to leave in the middle."""
        self.url = ""

    def says(self, *parts: Any) -> None:
        """One more answer: these parts, then the end."""
        self.answers.append((*parts, "data: [DONE]"))


def text(said: str = "", finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk."""
    told = ({"content": said} if said else {}) | delta
    return {"choices": [{"index": 0, "delta": told, "finish_reason": finish}]}


def usage(prompt: int, cached: int, said: int, reasoning: int = 0) -> dict[str, Any]:
    """The chunk that tells what was used."""
    return {
        "choices": [],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
        "timings": {"prompt_ms": 250.0},
    }


@contextmanager
def told_server() -> Iterator[ToldServer]:
    """One that runs."""
    told = ToldServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(told))
    server.daemon_threads = True
    told.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()


def _handler(told: ToldServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

        def do_GET(self) -> None:
            told.headers.append(dict(self.headers))
            models = {"object": "list", "data": [told.model]}
            is_health = self.path.endswith("/health")
            self._send(*(told.error or (told.health if is_health else (200, models))))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.endswith("count_tokens"):
                missing = {"error": {"message": "There is nothing here."}}
                there = {"input_tokens": told.counted}
                self._send(*((404, missing) if told.counted is None else (200, there)))
                return
            told.asked.append(body)
            told.headers.append(dict(self.headers))
            if told.error is not None:
                self._send(*told.error)
                return
            self._stream(told.answers.pop(0))

        def _send(self, status: int, body: Any) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, parts: Sequence[Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for part in parts:
                if part is None:
                    return
                if isinstance(part, Flag):
                    if not self.connection.recv(1):  # it left
                        told.left.set()
                    return
                line = part if isinstance(part, str) else f"data: {json.dumps(part)}"
                self.wfile.write(f"{line}\n\n".encode())
                self.wfile.flush()

    return Handler
