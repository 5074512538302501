"""The running server: its socket, its event loop, and how it ends."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn

from cli.environment import Environment, ExitStatus
from cli.serve.access import Access
from cli.serve.app import ServedApp
from cli.serve.chores import LOOK_S, keep_ranks, let_go_when_idle, warm_up
from cli.serve.dialect import Asked
from cli.serve.limits import HttpLimits
from cli.serve.options import ServeOptions
from cli.serve.protocol import WatchedProtocol
from cli.serve.records import Records, RequestRecord
from cli.serve.served_model import ServedModel
from cli.serve.status_feed import show_status
from cli.serve.status_screen import ServerDisplay
from cli.serve.trace import Trace
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.errors import Dsv4Error, UsageError
from dsv4_mlx.peers.waking import Waking

GRACE_S: Final = 10
"""How long requests may go on once the server is to end."""
CLOSE_S: Final = 5
"""How long those may take after it that are told that they ended."""
_ENDS: Final = "The server ends; ask again when it is back."


class RunningServer:
    """One run of `dsv4-chat serve`: `display` tells people what happens."""

    def __init__(
        self,
        given: ServeOptions,
        access: Access,
        model: ServedModel,
        environment: Environment,
        display: ServerDisplay,
    ) -> None:
        self._given, self._access, self._model = given, access, model
        self._environment, self._display = environment, display
        self._note = display.note
        self._waking = Waking(not given.allow_sleep)
        self._trace = None if given.trace is None else Trace(given.trace, self._note)
        self._limits = HttpLimits()
        self._failure: Dsv4Error | None = None
        self.records = Records(hear=self._hear, on_end=self._ended)

    def run(
        self, names: tuple[str, ...], defaults: AnswerSettings, folder: Path | None
    ) -> ExitStatus:
        """Serve until a signal comes, and keep in `folder` what clients may come back to; raises
        why the model could not be loaded."""
        app = ServedApp(
            self._model,
            names,
            defaults,
            self._limits,
            errors=self._environment.stderr,
            access=self._access,
            records=self.records,
            trace=self._trace,
            folder=folder,
        )
        app.chores = self._chores(app)
        with listen(self._given.host, self._given.port) as listening, _QuietSignals() as quiet:
            self._server = _server(app, self._limits)
            self._note(f"{names[0]} at {address(listening)}")
            if self._display.is_live:
                app.chores.append(partial(show_status, self._display, app, address(listening)))
            try:
                with self._display:
                    self._server.run(sockets=[listening])
            finally:
                self._end()
        if self._failure is not None:
            raise self._failure
        return ExitStatus.INTERRUPTED if quiet.was_interrupted else ExitStatus.OK

    def _end(self) -> None:
        self._model.stop(_ENDS)
        self._waking.close()
        if self._trace is not None:
            self._trace.close()

    def _hear(self) -> None:
        self._model.hear()
        self._waking.touch()

    def _ended(self, record: RequestRecord) -> None:
        self._note(record.line())
        if self._trace is not None:
            self._trace.end(record)

    def _chores(self, app: ServedApp) -> list[Callable[[], Any]]:
        chores: list[Callable[[], Any]] = [self._watch_model, self._end_answers]
        if self._given.options.hosts is not None:
            chores.append(partial(keep_ranks, self._model, self._note))
        if self._given.idle_unload is not None:
            idle_s = 60.0 * self._given.idle_unload
            chores.append(partial(let_go_when_idle, self._model, self.records, idle_s))
        if self._given.warm:
            owners = self._access.keys.owners
            files = self._given.warm
            read = partial(_read_traced, app)
            chores.append(
                partial(warm_up, self._model, files, read, owners, self.records, self._note)
            )
        return chores

    async def _watch_model(self) -> None:
        """End the server where the model cannot be loaded, or its thread has ended."""
        while self._model.state != "failed":
            await asyncio.sleep(LOOK_S)
        if not self._server.should_exit:
            self._failure = Dsv4Error(self._model.why_failed)
            self._server.should_exit = True

    async def _end_answers(self) -> None:
        """End what is still answered when the time for it is over, so that clients are told."""
        while not self._server.should_exit:
            await asyncio.sleep(LOOK_S)
        await asyncio.sleep(GRACE_S)
        await asyncio.to_thread(self._model.stop, _ENDS)


def _read_traced(app: ServedApp, path: str, body: dict[str, Any]) -> Asked | None:
    """What a traced request asks for; None where it asks nobody, or for nothing, any longer."""
    dialect = app.dialects.answers.get(path)
    with suppress(Dsv4Error):
        return None if dialect is None else dialect.read({**body, "model": None}, app.context())
    return None


class _SignalledServer(uvicorn.Server):
    """One that a second signal ends at once, whichever it is."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def _server(app: ServedApp, limits: HttpLimits) -> uvicorn.Server:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    protocol = type("LimitedProtocol", (WatchedProtocol,), {"limits": limits})
    return _SignalledServer(
        uvicorn.Config(
            app.application(),
            http=protocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=limits.rest_s,
            timeout_graceful_shutdown=round(GRACE_S + LOOK_S) + CLOSE_S,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; UsageError where there can be none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port} cannot be listened at: {error.strerror}; "
            "--port 0 takes any free one."
        ) from error


def address(listening: socket.socket) -> str:
    """Where a socket listens, as clients are told."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _QuietSignals:
    """uvicorn ends by a signal and raises it again then; here that ends nothing a second time."""

    def __init__(self) -> None:
        self.was_interrupted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_QuietSignals":
        with suppress(ValueError):  # outside the main thread there are no signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.was_interrupted = self.was_interrupted or number == signal.SIGINT
