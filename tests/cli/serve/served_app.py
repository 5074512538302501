"""A server without a socket: its application, asked directly, on a model that follows a script."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cli.opened_model import OpenedModel
from cli.serve.app import ServedApp
from cli.serve.limits import HttpLimits
from cli.serve.served_model import ServedModel
from cli.worker import Worker
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.scripted.engine import NANO, scripted_engine
from dsv4_mlx.scripted.script import Script, ScriptedReply
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.service import Service

PATIENCE_S = 60.0
"""Nothing here takes so long; a test that waits for ever fails instead."""


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


@dataclass
class Answer:
    """What a request was answered with."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    was_aborted: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def frames(self) -> list[str]:
        """The pieces of a stream of events."""
        return self.body.decode().removesuffix("\n\n").split("\n\n")

    @property
    def chunks(self) -> list[Any]:
        """The data of the frames that have JSON as their data."""
        data = [line for frame in self.frames for line in frame.split("\n")]
        found = [line.removeprefix("data: ") for line in data if line.startswith("data: ")]
        return [json.loads(text) for text in found if text != "[DONE]"]


@dataclass
class Client:
    """Asks an application."""

    app: Any
    headers: Mapping[str, str] = field(default_factory=lambda: {"host": "127.0.0.1:8642"})

    async def post(self, path: str, body: Any, **options: Any) -> Answer:
        """Send a body: JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", path, [content], **options)

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.ask("GET", path, [], **options)

    async def ask(
        self,
        method: str,
        path: str,
        pieces: Sequence[bytes | None] = (),
        *,
        headers: Mapping[str, str] | None = None,
        leaves_at: Callable[[Answer], bool] = lambda answer: False,
        leaves: list[asyncio.Event] | None = None,
        stalls: bool = False,
        client: str = "127.0.0.1",
        unsent: Callable[[], int] = lambda: 0,
    ) -> Answer:
        """Send a request whose body comes in `pieces`, None for one that never comes.

        The client leaves where `leaves_at` says so of what it has, or when the event is set that is
        put into `leaves`; one that `stalls` reads nothing of a body, and one that is slow has
        `unsent` bytes to read when all was sent.
        """
        given = {**self.headers, **(headers or {})}
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "scheme": "http", "client": (client, 50000), "server": ("127.0.0.1", 8642),
            "headers": [(key.lower().encode(), value.encode()) for key, value in given.items()],
        }  # fmt: skip
        answer, gone = Answer(), asyncio.Event()

        def abort() -> None:
            answer.was_aborted = True

        scope |= {"abort": abort, "unsent": unsent}
        left = list(pieces) or [b""]
        if leaves is not None:
            leaves.append(gone)

        async def receive() -> dict[str, Any]:
            if left:
                piece = left.pop(0)
                if piece is None:
                    await asyncio.Event().wait()
                return {"type": "http.request", "body": piece, "more_body": bool(left)}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            else:
                if stalls:
                    await asyncio.Event().wait()
                answer.body += message.get("body", b"")
                answer.is_whole = not message.get("more_body", False)
            if answer.is_whole or leaves_at(answer):
                gone.set()

        async with asyncio.timeout(PATIENCE_S):
            await self.app(scope, receive, send)
        return answer


def script(*replies: str | ScriptedReply, **options: Any) -> Script:
    """A script of replies in their order."""
    turns = tuple((ScriptedReply(one) if isinstance(one, str) else one,) for one in replies)
    return Script(turns, **options)


@dataclass
class Served:
    """A server on a script."""

    script: Script
    aliases: tuple[str, ...] = ()
    limits: HttpLimits = field(default_factory=lambda: HttpLimits(first_event_s=PATIENCE_S))
    serving: ServingLimits = field(default_factory=ServingLimits)
    folder: Path | None = None
    thinking: Thinking = field(default=Thinking("chat"))
    options: dict[str, Any] = field(default_factory=dict)
    """Of the application."""
    end_ranks: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.worker = Worker()
        self.model = ServedModel(self.worker, self._open, self._service, end_ranks=self.end_ranks)
        self.model.start()
        defaults = AnswerSettings(self.thinking, sampling=Sampling(0.0), loops="off")
        numbers = iter(range(1 << 30))
        options = {"new_id": lambda kind: f"{kind}{next(numbers)}", "now": lambda: 1_700_000_000}
        names = (self.script.name, *self.aliases)
        self.app = ServedApp(
            self.model, names, defaults, self.limits, **{**options, **self.options}
        )

    def _open(self) -> OpenedModel:
        def load() -> Any:
            return self.engine(), tokenizer()

        opening = self.worker.submit(load)
        return OpenedModel(NANO, self.script.settings, opening, title=self.script.name)

    def engine(self) -> Any:
        """What answers."""
        return scripted_engine(self.script, tokenizer())

    def _service(self, engine: Any, tokenizer: Any) -> Any:
        numbers = iter(range(1 << 30))
        return Service(
            engine,
            tokenizer,
            self.script.effort_table,
            limits=self.serving,
            folder=self.folder,
            disk_bytes=1 << 30,
            call_id=lambda: f"call_{next(numbers)}",
        )

    def run(self, work: Callable[[Client], Awaitable[Any]]) -> Any:
        """Let a client do its work in an event loop of its own."""

        async def main() -> Any:
            application = self.app.application()
            routes = application._app
            async with routes.router.lifespan_context(routes):
                return await work(Client(application))

        try:
            return asyncio.run(main())
        finally:
            self.stop()

    def stop(self) -> None:
        self.model.stop("the test is over")
        self.worker.ends_within(PATIENCE_S)


def asked(*replies: str | ScriptedReply, path: str = "/v1/chat/completions", **body: Any) -> Answer:
    """The answer to one body, of a server of its own."""
    body.setdefault("messages", [{"role": "user", "content": "Hello"}])
    return Served(script(*replies)).run(lambda client: client.post(path, body))
