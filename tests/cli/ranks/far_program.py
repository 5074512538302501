"""Rank 0's program of a server, on a thread of the test's own process."""

from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

from cli.ranks.far_side import FarEngine, listening
from cli.ranks.messages import FarEnd, FarLoaded
from cli.ranks.service_server import ServiceServer
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.scripted.engine import NANO, scripted_engine
from dsv4_mlx.scripted.script import Script
from dsv4_mlx.serving.service_settings import ServiceSettings
from tests.cli.ranks.pipes import two_pipes

PATIENCE_S = 60.0


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


def elsewhere(told: Script) -> Any:
    """An engine whose weights are elsewhere."""
    engine = scripted_engine(told, tokenizer())
    engine.model.weights_elsewhere = True  # type: ignore[attr-defined]
    return engine


class FarProgram:
    """Serves a script at the other end of two pipes; `engine` is what a server has of it."""

    def __init__(self, told: Script, folder: Path | None = None) -> None:
        here, self.there = two_pipes()
        self._writing = here._writing
        self.failed: list[PipelineError] = []
        loaded: list[FarLoaded] = []
        has_loaded = Flag()

        def serve() -> None:
            server = ServiceServer(self.there, lambda: None)
            kept = None if folder is None else str(folder)
            settings = ServiceSettings(most_waiting=8, folder=kept, disk_bytes=1 << 30)
            service = settings.service(elsewhere(told), tokenizer(), told.effort_table, 1 << 62)
            server.use(service)
            loaded.append(FarLoaded(None, told.context, longest=service.longest))
            has_loaded.set()
            try:
                server.serve()
            except PipelineError as error:
                self.failed.append(error)
                self.there.send(FarEnd(str(error)))
            with suppress(OSError):
                self.there._writing.close()

        self._thread = Thread(target=serve)
        self._thread.start()
        assert has_loaded.wait(PATIENCE_S)
        self.engine = FarEngine(here, loaded[0], listening(here), lambda: "rank 0 ended.")

    def end(self) -> None:
        """As the end of its stdin ends it; twice is once."""
        with suppress(OSError):
            self._writing.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
