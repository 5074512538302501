"""The running server: its socket, its event loop, and how it ends."""

import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

import uvicorn

from cli.environment import Environment, ExitStatus
from cli.serve.app import ServedApp
from cli.serve.limits import HttpLimits
from cli.serve.options import ServeOptions
from cli.serve.served_model import ServedModel
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.errors import UsageError

GRACE_S: Final = 10
"""How long requests may go on once the server is to end."""
_ENDS: Final = "The server ends; ask again when it is back."


def run_server(
    given: ServeOptions,
    model: ServedModel,
    names: tuple[str, ...],
    defaults: AnswerSettings,
    environment: Environment,
    note: Callable[[str], None],
) -> ExitStatus:
    """Serve until a signal comes."""
    limits = HttpLimits()
    app = ServedApp(model, names, defaults, limits, errors=environment.stderr)
    listening = listen(given.host, given.port)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(
        uvicorn.Config(
            app.application(),
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    note(f"{names[0]} at {address(listening)}")
    try:
        with listening, _quiet_signals():
            server.run(sockets=[listening])
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    finally:
        model.stop(_ENDS)
    return ExitStatus.OK


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


class _quiet_signals:
    """uvicorn raises the signals that ended it again; here that ends nothing a second time."""

    def __enter__(self) -> None:
        def ignore(number: int, frame: FrameType | None) -> None:
            """It has done what it was for."""

        self._before = {}
        with suppress(ValueError):  # outside the main thread there are no signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, ignore)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
