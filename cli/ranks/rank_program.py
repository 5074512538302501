"""The program of one rank (`python -m cli.ranks.rank_program`); `cli.ranks.processes` starts it.

It reads its work from stdin and ends when that does. Rank 0 then speaks with the terminal,
or with the server, through stdin and stdout; the worker follows rank 0.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from threading import Thread, Timer
from typing import IO, cast

from cli.kept.prefixes import stored_prefixes
from cli.ranks.failures import log, log_to_stderr, sentence_of
from cli.ranks.messages import FarEnd, FarLoaded, Pipes
from cli.ranks.rank_model import RankModel, open_rank
from cli.ranks.rank_work import RankWork
from cli.ranks.service_server import ServiceServer
from cli.ranks.side_server import Calls, SideServer
from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.serving.service_settings import ServiceSettings

_GRACE_S = 2.0

Begin = Callable[[RankModel], tuple[FarLoaded, Callable[[], None]]]
"""From a loaded model to what the terminal is told of it, and to what answers the terminal."""


def main() -> int:
    """Do the work that stdin names; the exit status."""
    reading = sys.stdin.buffer
    log_to_stderr()
    # What any library prints goes to stderr from here on.
    writing = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    work = RankWork.from_line(reading.readline())
    if work.rank == 0:
        return _serve(work, Pipes(reading, writing))
    Thread(target=_end_with, args=(reading,), name="stdin", daemon=True).start()
    return _follow(work)


def _serve(work: RankWork, pipes: Pipes) -> int:
    """Rank 0: load, and answer what the terminal asks for."""
    begin = (_conversations if work.served is None else _requests)(work, pipes)

    def end(sentence: str) -> None:
        with suppress(OSError):
            pipes.send(FarEnd(sentence))
        os._exit(1)

    try:
        model = open_rank(work, end)
        try:
            loaded, serve = begin(model)
            pipes.send(loaded)
            serve()
        finally:
            model.close()
    except BrokenPipeError:
        return 0  # the terminal is gone
    except (Dsv4Error, OSError) as error:
        with suppress(OSError):
            pipes.send(FarEnd(sentence_of(error)))
        return 1
    return 0


def _follow(work: RankWork) -> int:
    """Rank 1: do what rank 0 asks for until it ends."""

    def end(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)
        os._exit(1)

    try:
        model = open_rank(work, end)
        try:
            model.follow()
        finally:
            model.close()
    except (Dsv4Error, OSError) as error:
        print(sentence_of(error), file=sys.stderr)
        return 1
    return 0


def _conversations(work: RankWork, pipes: Pipes) -> Begin:
    calls = Calls(pipes, _end_soon)

    def begin(model: RankModel) -> tuple[FarLoaded, Callable[[], None]]:
        engine, tokenizer = model.engine_and_tokenizer
        prefixes = stored_prefixes(os.environ, work.prefix_bytes, work.kv)(engine)
        table = cast(EffortTable, work.effort_table)
        return _loaded(model), SideServer(engine, tokenizer, table, prefixes, pipes, calls).serve

    return begin


def _requests(work: RankWork, pipes: Pipes) -> Begin:
    server, settings = ServiceServer(pipes, _end_soon), ServiceSettings(**work.served or {})

    def begin(model: RankModel) -> tuple[FarLoaded, Callable[[], None]]:
        engine, tokenizer = model.engine_and_tokenizer
        table = cast(EffortTable, work.effort_table)
        service = settings.service(engine, tokenizer, table, model.timeline_bytes)
        server.use(service)
        return replace(_loaded(model), longest=service.longest), server.serve

    return begin


def _loaded(model: RankModel) -> FarLoaded:
    engine, _ = model.engine_and_tokenizer
    return FarLoaded(
        engine.backend, engine.max_context, engine.memory.wired, model.notes, engine.left_out
    )


def _end_soon() -> None:
    """The terminal is gone: in the ordinary way if nothing hinders that, else at once."""
    timer = Timer(_GRACE_S, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _end_with(reading: IO[bytes]) -> None:
    with suppress(OSError, ValueError):
        reading.read()
    _end_soon()


if __name__ == "__main__":
    # Threads that listen hold streams of their own, which Python would wait for.
    status = 1
    try:
        status = main()
    except Exception as mistake:  # the terminal says its last line
        log(mistake)
    finally:
        sys.stderr.flush()
        os._exit(status)
