"""One rank's part of a model, met, agreed upon and loaded; or a script that stands for it."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from cli.machine.machine import read_machine
from cli.ranks.failures import sentence_of
from cli.ranks.rank_work import RankWork
from cli.ranks.timeline_room import timeline_bytes
from dsv4_mlx import __version__
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.protocols import LanguageModel
from dsv4_mlx.engine.timed_token import residency_note
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.peers.facts import GIB, RankFacts, remarks
from dsv4_mlx.peers.guard import Guard
from dsv4_mlx.peers.meeting import Greeting, agree, exchange, meet, refuse
from dsv4_mlx.peers.peer_control import PeerControl
from dsv4_mlx.peers.peer_socket import BEAT_S, PeerSocket
from dsv4_mlx.peers.waking import Waking
from dsv4_mlx.peers.watchdog import CHUNKS, Watchdog
from dsv4_mlx.sizing.costs import Kv


@dataclass
class RankModel:
    """What a rank runs, connected with the other one."""

    peer: PeerSocket
    guard: Guard
    waking: Waking
    notes: tuple[str, ...]
    """What a person is told at the start."""
    loaded: tuple[Engine, Tokenizer] | None = None
    """Rank 0's."""
    follow: Callable[[], None] = field(default=lambda: None)
    """The worker's loop."""
    timeline_bytes: int = 1 << 62
    """For all timelines together, of both ranks, as both machines have room."""
    quit: Callable[[], None] = field(default=lambda: None)
    """What rank 0 says to the worker's loop at the end."""

    @property
    def engine_and_tokenizer(self) -> tuple[Engine, Tokenizer]:
        """Of rank 0."""
        assert self.loaded is not None
        return self.loaded

    def close(self) -> None:
        """Leave in the ordinary way."""
        self.guard.close()
        self.waking.close()
        if not self.peer.problem:
            self.quit()
        self.peer.close()


def open_rank(work: RankWork, end: Callable[[str], None]) -> RankModel:
    """Meet the other rank, agree, and load; returns when both have.

    `end` gets a sentence, on a thread of its own, when the other rank is given up, and must end the
    process. PipelineError and its like where one of the two cannot begin.
    """
    peer = meet(_greeting(work))
    watchdog, waking = Watchdog(work.limit_s, time.monotonic), Waking(not work.allow_sleep)
    guard = Guard(peer, watchdog, end)
    control = PeerControl(peer, watchdog, waking, waits_asleep=work.rank == 1)
    try:
        opened = _scripted if work.engine is not None else _loaded
        return opened(work, peer, guard, waking, control)
    except BaseException as error:
        guard.close()
        waking.close()
        if isinstance(error, Exception):
            peer.tell("refused", reason=sentence_of(error))
        peer.close()
        raise


def _greeting(work: RankWork) -> Greeting:
    return Greeting(
        work.rank,
        work.ring,
        __version__,
        socket.gethostname(),
        work.hosts[1 - work.rank],
        work.token,
        work.limit_s,
        beat_s=min(BEAT_S, work.limit_s / 4),
    )


def _notes(work: RankWork, ranks: list[RankFacts], split: str) -> tuple[str, ...]:
    limit = f"a rank that is silent for {work.limit_s:g} s, or {CHUNKS} chunks, is given up"
    return (*filter(None, [split]), limit, *remarks(ranks))


@contextmanager
def _refusing(peer: PeerSocket) -> Iterator[None]:
    """Inside, what this rank finds wrong with itself is told to the other too."""
    try:
        yield
    except Dsv4Error as error:
        refuse(peer, str(error))


def _split_sentence(ranks: list[RankFacts]) -> str:
    """Who has what, the first layers first; bytes are of weights, cache and work."""
    return "; ".join(
        f"{one.name} has layers {one.layers[0]} to {one.layers[1] - 1} of {one.layer_count} and "
        f"needs {one.needed / GIB:.1f} GiB"
        for one in sorted(ranks, key=lambda one: one.layers)
    )


def _scripted(
    work: RankWork, peer: PeerSocket, guard: Guard, waking: Waking, control: PeerControl
) -> RankModel:
    """Rank 0 follows a script; the worker has nothing to do, and is there."""
    from dsv4_mlx.scripted.engine import open_scripted

    assert work.engine is not None
    ranks = agree(peer, _scripted_facts(work))
    file = work.engine.partition(":")[2]
    loaded = open_scripted(file) if work.rank == 0 else None
    if loaded is not None and work.served is not None:
        loaded[0].model.weights_elsewhere = True  # type: ignore[attr-defined]  # as two machines do
    exchange(peer, "loaded", True)  # the other may take minutes longer

    def follow() -> None:
        try:
            while True:
                control.receive()
        except EOFError:
            return

    return RankModel(peer, guard, waking, _notes(work, ranks, ""), loaded, follow)


def _scripted_facts(work: RankWork) -> RankFacts:
    """Of a script, which has no layers."""
    return RankFacts(
        rank=work.rank,
        host=socket.gethostname(),
        version=__version__,
        mlx="",
        backend="",
        gpu="",
        memory=None,
        needed=0,
        layers=(0, 0),
        held=(0, 0),
        layer_count=0,
        fingerprint="scripted",
        recipe="",
        settings={"kv": work.kv},
    )


def _loaded(
    work: RankWork, peer: PeerSocket, guard: Guard, waking: Waking, control: PeerControl
) -> RankModel:
    """This rank's layers, and MLX's connection to the other's."""
    from dsv4_mlx import forming

    with _refusing(peer):
        prepared = forming.prepare(Path(work.model), work.rank, work.backend, work.kv)
    other = exchange(peer, "held", prepared.held)
    with _refusing(peer):
        prepared = prepared.beside((int(other[0]), int(other[1])))
        machine = read_machine()
        limit = machine.limit(prepared.backend)
        facts = prepared.facts(__version__, socket.gethostname(), machine.chip, limit)
    ranks = agree(peer, facts)
    group = forming.join(
        work.rank,
        work.ring,
        work.limit_s,
        backend=work.group_backend,
        rdma=work.rdma,
        is_started=work.is_started,
    )
    part = prepared.load(group)
    exchange(peer, "loaded", True)  # the other may take minutes longer
    if work.rank == 1:
        follow = partial(forming.follow, part, group, control)
        return RankModel(peer, guard, waking, _notes(work, ranks, ""), follow=follow)
    model = forming.model_of(part, group, control)
    engine = Engine(cast(LanguageModel, model), prefill_chunk=work.prefill_chunk)
    if work.snapshot_bytes is not None:
        engine.snapshot_bytes = work.snapshot_bytes
    notes = _notes(work, ranks, _split_sentence(ranks))
    needed = max(one.needed for one in ranks)
    notes += tuple(filter(None, [residency_note(engine, needed, machine.chip, len(ranks))]))
    loaded = engine, Tokenizer(Path(work.model))
    room = timeline_bytes(ranks, prepared.checkpoint.config, cast(Kv, work.kv))
    return RankModel(peer, guard, waking, notes, loaded, timeline_bytes=room, quit=model.close)
