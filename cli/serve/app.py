"""The server as an ASGI application: which path does what."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cli.safe import exact
from cli.serve.access import Access, ApiKeys
from cli.serve.answering import Answering
from cli.serve.debug import PAGE, check_at_this_machine, prompt_found
from cli.serve.dialect import Dialect, DialectContext, TokenCounter
from cli.serve.dialects import Dialects
from cli.serve.endpoint import Endpoint, Handler, random_id
from cli.serve.faults import Fault, FaultKind, RequestFault
from cli.serve.gate import Gate
from cli.serve.health import health
from cli.serve.http_answers import (
    Receive,
    Scope,
    Send,
    header,
    send_content,
    send_fault,
    send_json,
    with_headers,
)
from cli.serve.limits import BodyReader, HttpLimits, RateLimit
from cli.serve.metrics import CacheFigures, cache_figures, metrics_text
from cli.serve.models import entry_named, model_entry, models_body
from cli.serve.records import Records
from cli.serve.served_model import ServedModel
from cli.serve.trace import Trace
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.errors import Dsv4Error, PipelineError, ServiceEnded
from dsv4_mlx.serving.unheld import unheld_of

_MOST_CLIENT: Final = 40
_COUNTING_S: Final = 2.0
_OF_STATUS: dict[int, tuple[FaultKind, str]] = {
    404: ("not_found", "There is nothing at {path}; the paths are {paths}."),
    405: ("wrong_method", "{path} is not asked with {method}."),
}


@dataclass
class ServedApp:
    """What the handlers share."""

    model: ServedModel
    names: tuple[str, ...]
    """The model's id, then its aliases."""
    defaults: AnswerSettings
    limits: HttpLimits = field(default_factory=HttpLimits)
    new_id: Callable[[str], str] = random_id
    now: Callable[[], int] = lambda: int(time.time())
    errors: TextIO = field(default_factory=lambda: sys.stderr)
    access: Access = field(default_factory=lambda: Access(ApiKeys()))
    records: Records = field(default_factory=Records)
    trace: Trace | None = None
    folder: Path | None = None
    """Where what clients may come back to outlives the program."""
    chores: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    """What runs beside the requests as long as the server does."""

    def __post_init__(self) -> None:
        self.dialects = Dialects.kept_in(self.folder)
        self.started = self.now()
        self._figures = CacheFigures()
        self._bodies = BodyReader(self.limits)

    def application(self) -> Gate:
        """All of it."""
        limits, clock = self.limits, self.records.clock
        return Gate(
            self._routes(),
            self.access,
            limits,
            self.dialects,
            RateLimit(limits.requests_per_minute, clock),
            RateLimit(limits.wrong_keys_per_minute, clock),
            self._refused,
            clock,
        )

    def _routes(self) -> Starlette:
        paths: dict[str, Handler] = {
            path: partial(self._answer, dialect) for path, dialect in self.dialects.answers.items()
        }
        paths |= {path: partial(self._count, one) for path, one in self.dialects.counts.items()}
        gets: dict[str, Handler] = {
            "/": self._greet,
            "/debug": self._debug_page,
            "/health": self._health,
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/v1/models/{name:path}": self._model,
        }
        routes = [
            *(Route(path, self._endpoint(one), methods=["POST"]) for path, one in paths.items()),
            *(Route(path, self._endpoint(one), methods=["GET"]) for path, one in gets.items()),
            *(
                Route(path, self._endpoint(one), methods=["GET", "DELETE"])
                for path, one in self.dialects.kept.items()
            ),
            Route("/v1/debug/prompt", self._endpoint(self._debug_prompt), methods=["POST"]),
        ]
        self.paths = (*paths, "/v1/models", "/health", "/metrics")
        handlers: Any = {HTTPException: self._unrouted}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._life)

    def _endpoint(self, handler: Handler) -> Endpoint:
        return Endpoint(handler, self.dialects.at, self.errors)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.ensure_future(chore()) for chore in self.chores]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # Answers

    async def _answer(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        watch = self.records.begin(dialect.name, client_of(scope), scope["owner"])
        send = with_headers(send, [(b"x-request-id", str(watch.record.number).encode())])
        try:
            body = await self._bodies.read(scope, receive)
            if self.trace is not None:
                self.trace.request(watch.record.number, scope["path"], body)
            asked = await asyncio.to_thread(dialect.read, body, self.context(scope["owner"]))
            not_held = await asyncio.to_thread(unheld_of, asked.request)
            watch.record.passed_over = (*asked.passed_over, *not_held)
        except Dsv4Error as error:
            watch.end(_fault_of(error), False)
            await self._refuse(dialect, error, send)
            return
        except BaseException:
            watch.end(Fault("failed", "The server failed."), True)
            raise
        answering = Answering(self.model, dialect, asked, self.limits, watch)
        await answering.respond(receive, send)

    async def _count(
        self, counter: TokenCounter, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            body = await self._bodies.read(scope, receive)
            request = await asyncio.to_thread(counter.read, body, self.context(scope["owner"]))
            prompts = await self.model.prompts()
            tokens = await asyncio.to_thread(prompts.count, request)
        except Dsv4Error as error:
            await self._refuse(counter, error, send)
            return
        await send_json(send, 200, counter.counted(tokens))

    async def _refuse(self, dialect: Dialect | TokenCounter, error: Dsv4Error, send: Send) -> None:
        fault = _fault_of(error)
        await send_fault(send, fault, dialect.error(fault))

    def context(self, owner: str = "") -> DialectContext:
        """What holds for a request of `owner` beside its body."""
        return DialectContext(
            self.names[0],
            self.names,
            self.model.settings,
            self.defaults,
            self.model.token_bytes,
            self.new_id,
            self.now,
            owner,
        )

    # Everything else

    async def _greet(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"dsv4-chat serves {self.names[0]} at {', '.join(self.paths)}.\n"
        await send_content(send, 200, b"text/plain; charset=utf-8", text.encode())

    async def _debug_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = PAGE.replace("PATHS", json.dumps([*self.dialects.answers]), 1)
        policy = (b"content-security-policy", b"frame-ancestors 'none'")
        await send_content(send, 200, b"text/html; charset=utf-8", page.encode(), [policy])

    async def _debug_prompt(self, scope: Scope, receive: Receive, send: Send) -> None:
        dialect = self.dialects.at(scope)
        try:
            check_at_this_machine(scope)
            asked = await self._bodies.read(scope, receive)
            path, body = asked.get("path"), asked.get("body")
            known = self.dialects.answers
            if not isinstance(path, str) or path not in known or not isinstance(body, dict):
                paths = " or ".join(known)
                raise RequestFault("invalid", f"Give a path, {paths}, and the body sent there.")
            read = await asyncio.to_thread(known[path].read, body, self.context(scope["owner"]))
            service = await self.model.service()
            found = await asyncio.to_thread(prompt_found, service, read.request)
        except Dsv4Error as error:
            await self._refuse(dialect, error, send)
            return
        await send_json(send, 200, found)

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, *health(self.model))

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = metrics_text(self.model, self.records, await self.cache_figures())
        await send_content(send, 200, b"text/plain; version=0.0.4; charset=utf-8", text.encode())

    async def cache_figures(self) -> CacheFigures:
        """What is held, as the model's thread counts it; the figures before these, where it has no
        time to."""
        if self.model.is_ready:
            # A rank may be lost, or the server end, while it is asked, which is told elsewhere.
            with suppress(TimeoutError, PipelineError, ServiceEnded):
                counted = asyncio.wrap_future(self.model.running.ask(cache_figures))
                self._figures = await asyncio.wait_for(counted, _COUNTING_S)
        return self._figures

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, models_body(self._entries()))

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            entry = entry_named(scope["path_params"]["name"], self._entries())
        except RequestFault as error:
            await self._refuse(self.dialects.at(scope), error, send)
            return
        await send_json(send, 200, entry)

    def _entries(self) -> list[dict[str, Any]]:
        settings, context, said = self.model.settings, self.model.context, self.defaults
        return [model_entry(name, self.started, context, settings, said) for name in self.names]

    def _refused(self, scope: Scope, fault: Fault) -> None:
        self.records.refused(_asked_by(scope), fault)

    async def _unrouted(self, request: Request, error: HTTPException) -> Response:
        kind, sentence = _OF_STATUS[error.status_code]
        told = {"path": request.url.path, "method": request.method, "paths": ", ".join(self.paths)}
        fault = Fault(kind, sentence.format(**told))
        self._refused(request.scope, fault)
        refused = self.dialects.at(request.scope).error(fault)
        return JSONResponse(refused.body, refused.status, headers=error.headers)


def _asked_by(scope: Scope) -> str:
    """What a client calls itself, and what it asked for at a path that may be anything."""
    return f"{client_of(scope)} {exact(scope['method'])} {exact(scope['path'][:_MOST_CLIENT])}"


def _fault_of(error: Dsv4Error) -> Fault:
    if isinstance(error, RequestFault):
        return error.fault
    is_away = isinstance(error, PipelineError | ServiceEnded)
    return Fault("unavailable" if is_away else "invalid", str(error))


def client_of(scope: Scope) -> str:
    """What a client calls itself, else where it is."""
    product = (header(scope, b"user-agent") or "").partition(" ")[0][:_MOST_CLIENT]
    return exact(product) or (scope.get("client") or ("unknown", 0))[0]
