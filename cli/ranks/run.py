"""Whether this run has two ranks, and which part of them this process is.

It is the terminal, which starts both (`--hosts`); or one of the two, which somebody else started
for one answer (`MLX_RANK` and `MLX_HOSTFILE`, as `mlx.launch` sets them).
"""

import os
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import TYPE_CHECKING

from cli.environment import Environment, ExitStatus
from cli.once.answer_output import write_json_error
from cli.opened_model import embedded_model
from cli.options import Options
from cli.ranks.failures import trace_file
from cli.ranks.fitting import configured_notes
from cli.ranks.rank_work import RankWork, limit_of, work_of
from cli.ranks.starting import RankPair
from cli.show.output import PlainOutput
from dsv4_mlx.errors import UsageError
from dsv4_mlx.peers.hostfile import RANKS, Ring, read_hosts, read_ring

if TYPE_CHECKING:
    from cli.config import Config
    from cli.ranks.rank_model import RankModel
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.serving.service_settings import ServiceSettings

_RANK, _HOSTFILE, _COORDINATOR = "MLX_RANK", "MLX_HOSTFILE", "MLX_JACCL_COORDINATOR"
_OURS = ("DSV4_BACKEND", "DSV4_KERNELS")
"""Variables of this program that hold for both ranks."""
_GRACE_S = 10.0


@dataclass
class RanksOfRun:
    """What two ranks change in a run; nothing where there is one machine."""

    environment: Environment
    pair: RankPair | None = None
    """The terminal's processes."""
    open: "Callable[[], tuple[Engine, Tokenizer]] | None" = None
    """How rank 0 loads its part, where somebody else started it."""
    follow: Callable[[], ExitStatus] | None = None
    """What the worker does, where somebody else started it."""
    notes: list[str] = field(default_factory=list)
    """What a person is told once rank 0 has loaded."""


@contextmanager
def ranks_of(
    options: Options,
    environment: Environment,
    config: "Config",
    served: "ServiceSettings | None" = None,
) -> Iterator[RanksOfRun]:
    """This run's ranks, ended afterwards; where `served` is given, rank 0 serves requests.
    UsageError for hostfiles that name others than two."""
    work = started_rank(options, environment.variables)
    if options.hosts is not None:
        if work is not None:
            raise UsageError(
                f"--hosts starts both ranks itself, and {_RANK} says that this is one; give one."
            )
        pair = _pair(options, config, options.hosts, environment.variables, served)
        try:
            yield RanksOfRun(environment, pair=pair)
        finally:
            pair.end()
    elif work is None:
        yield RanksOfRun(environment)
    elif work.rank == 0:
        yield from _first(work, options, environment, configured_notes(config))
    else:
        yield RanksOfRun(environment, follow=lambda: _follow(work, options, environment))


def quiet_worker(environment: Environment) -> Environment:
    """`environment`, without stdout where another rank answers."""
    if not is_started(environment.variables) or environment.variables.get(_RANK) == "0":
        return environment
    return replace(environment, stdout=open(os.devnull, "w", encoding="utf-8"))


def started_rank(options: Options, variables: Mapping[str, str]) -> RankWork | None:
    """The rank that somebody started this process as; None for a program of its own."""
    if not is_started(variables):
        return None
    rank = variables[_RANK]
    if rank not in map(str, range(RANKS)):
        raise UsageError(f"{_RANK} is {rank!r}; a model runs on exactly two machines, 0 and 1.")
    ring = _ring(variables)
    hosts = tuple(addresses[0].rpartition(":")[0] for addresses in ring)
    return RankWork(
        rank=int(rank),
        ring=ring,
        hosts=hosts,
        token="",
        limit_s=limit_of(options),
        model=str(options.model or embedded_model()),
        allow_sleep=options.allow_sleep,
        engine=options.engine,
        backend=options.backend or "auto",
        kv=options.kv or "compact",
        prefill_chunk=options.prefill_chunk,
        group_backend="jaccl" if _COORDINATOR in variables else "ring",
        is_started=True,
    )


def is_started(variables: Mapping[str, str]) -> bool:
    """Whether somebody started this process as one of two ranks."""
    return _RANK in variables and (_HOSTFILE in variables or _COORDINATOR in variables)


def _ring(variables: Mapping[str, str]) -> Ring:
    if _COORDINATOR in variables:
        return ((variables[_COORDINATOR],),) * RANKS
    return read_ring(Path(variables[_HOSTFILE]))


def _pair(
    options: Options,
    config: "Config",
    file: Path,
    variables: Mapping[str, str],
    served: "ServiceSettings | None",
) -> RankPair:
    hosts = read_hosts(file)
    ours = {name: variables[name] for name in _OURS if name in variables}
    hosts = replace(hosts, variables={**ours, **hosts.variables})
    work = work_of(hosts, options, secrets.token_hex(16))
    kept = config.prefix_bytes if options.keep else 0
    work = replace(work, prefix_bytes=kept, snapshot_bytes=config.snapshot_bytes)
    if served is not None:  # its timelines keep places, not its conversations
        work = replace(work, prefix_bytes=0, snapshot_bytes=None, served=asdict(served))
    traces = trace_file(variables) if options.keep else None
    return RankPair(hosts.hosts, work, configured_notes(config), traces=traces)


def _first(
    work: RankWork, options: Options, environment: Environment, notes: list[str]
) -> Iterator[RanksOfRun]:
    """Rank 0 of two that somebody else started: it reads no stdin and answers one message."""
    if not (options.prompt or options.words):
        raise UsageError(
            "two ranks that were started as such answer one message: give -p TEXT; "
            "dsv4-chat --hosts HOSTFILE opens the prompt."
        )
    opened: list[RankModel] = []

    def open_first() -> "tuple[Engine, Tokenizer]":
        from cli.ranks.rank_model import open_rank

        opened.append(open_rank(work, lambda sentence: _end(sentence, options, environment)))
        notes.extend(opened[0].notes)
        return opened[0].engine_and_tokenizer

    with open(os.devnull, encoding="utf-8") as nothing:
        try:
            yield RanksOfRun(replace(environment, stdin=nothing), open=open_first, notes=notes)
        finally:
            for model in opened:
                model.close()


def _follow(work: RankWork, options: Options, environment: Environment) -> ExitStatus:
    """Rank 1 of two that somebody else started."""
    from cli.ranks.rank_model import open_rank

    model = open_rank(work, lambda sentence: _end(sentence, options, environment))
    try:
        with _leaving_to_rank_0():
            model.follow()
    finally:
        model.close()
    return ExitStatus.OK


@contextmanager
def _leaving_to_rank_0() -> Iterator[None]:
    """Inside, Ctrl-C, which both may get, is rank 0's to answer for a moment."""

    def handle(number: int, frame: FrameType | None) -> None:
        timer = Timer(_GRACE_S, os._exit, (int(ExitStatus.INTERRUPTED),))
        timer.daemon = True
        timer.start()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _end(sentence: str, options: Options, environment: Environment) -> None:
    """End this process, whose other rank is given up."""
    with suppress(OSError, ValueError):
        if options.json:
            write_json_error(sentence, environment)
        PlainOutput(environment).error(sentence)
        environment.stdout.flush()
    os._exit(ExitStatus.ERROR)
