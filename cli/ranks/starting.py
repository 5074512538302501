"""From `--hosts` to a loaded model on two machines, and the sentence where none comes of it."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from queue import Empty

from cli.ranks.failures import TraceFile
from cli.ranks.far_side import FarEngine, listening
from cli.ranks.messages import FarEnd, FarLoaded, Pipes
from cli.ranks.processes import RankProcess, start
from cli.ranks.rank_work import RankWork
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.peers.hostfile import PeerHost
from dsv4_mlx.peers.meeting import UNREACHABLE_CURE

_LOOK_S = 0.05
_GRACE_S = 2.0
_GUIDE = "docs/two-macs.md goes through it"


class RankPair:
    """The processes of one run, started as often as a person asks; for one thread at a time."""

    def __init__(
        self,
        hosts: Sequence[PeerHost],
        work: RankWork,
        notes: Sequence[str] = (),
        *,
        traces: TraceFile | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`work` is rank 0's; the other's differs in rank and folder. `notes` are told with those
        of a model that is loaded; `traces` keeps what only we understand."""
        self._hosts = hosts
        self._work = work
        self._notes = tuple(notes)
        self._traces = traces
        self._clock = clock
        self._processes: list[RankProcess] = []

    def open(self, model: str, effort_table: str) -> FarEngine:
        """Start both ranks with the folder `model` and wait until they have loaded it.

        PipelineError, a sentence, when they do not come that far; then none of them is left.
        """
        self.end()
        work = replace(self._work, model=model, effort_table=effort_table)
        try:
            return self._opened(work)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the processes, if any run; returns when they are gone."""
        ended, self._processes = self._processes, []
        for process in ended:
            process.leave()  # both at once
        for process in ended:
            process.end()

    def _opened(self, work: RankWork) -> FarEngine:
        first, worker = self._started(work)
        rank_0 = first.process
        assert rank_0.stdin is not None and rank_0.stdout is not None
        pipes = Pipes(rank_0.stdout, rank_0.stdin)
        inbox, worker_gone_at = listening(pipes), None
        while True:
            try:
                message = inbox.get(timeout=_LOOK_S)
            except Empty:
                message = ...
            if isinstance(message, FarLoaded):
                message = replace(message, notes=(*self._notes, *message.notes))
                return FarEngine(pipes, message, inbox, lambda: self._why_ended(first))
            if isinstance(message, FarEnd):
                raise PipelineError(self._better(message.sentence, worker))
            if message is None:
                raise PipelineError(self._why_ended(first))
            if worker.status is not None:
                # What rank 0 knows of it is better, if it knows anything.
                if worker_gone_at is None:
                    worker_gone_at = self._clock()
                if self._clock() - worker_gone_at > _GRACE_S:
                    raise PipelineError(self._why_no_worker(worker))

    def _started(self, work: RankWork) -> tuple[RankProcess, RankProcess]:
        first = self._start(work, self._hosts[0])
        try:
            worker = self._start(work.of_rank(1, self._hosts[1].model), self._hosts[1])
        except OSError as error:
            raise PipelineError(
                f"{work.other} cannot be started: ssh: {error.strerror}."
            ) from error
        return first, worker

    def _start(self, work: RankWork, host: PeerHost) -> RankProcess:
        keep = None if self._traces is None else self._traces.reader()
        process = start(work, host, work.variables, keep)
        self._processes.append(process)
        return process

    def _better(self, sentence: str, worker: RankProcess) -> str:
        """`sentence` of rank 0, or why the worker never came to it."""
        if "did not come" in sentence and worker.status is not None:
            return self._why_no_worker(worker)
        return sentence

    def _why_no_worker(self, worker: RankProcess) -> str:
        host = self._hosts[1]
        words = worker.last_words or f"it ended with status {worker.status}"
        if host.is_local or worker.failed:
            return f"{self._work.other} ended: {_sentence(words)}"
        cure = "switch on Remote Login there and let ssh in with a key"
        if worker.status == 127 or "not found" in words or "No such file" in words:
            cure = 'name its Python in the hostfile, "python": "/path/to/python"'
        elif "No module named" in words:
            cure = 'install dsv4-mlx there, or name its Python in the hostfile, "python": "/path"'
        elif "No route to host" in words:
            cure = UNREACHABLE_CURE
        return f"{self._work.other} cannot be started: {words.rstrip('.')}; {cure} ({_GUIDE})."

    def _why_ended(self, rank_0: RankProcess) -> str:
        """Why rank 0's process ended without a sentence of its own."""
        with suppress(subprocess.TimeoutExpired):
            rank_0.process.wait(_GRACE_S)
        status, work = rank_0.status, self._work
        if status == -signal.SIGALRM:
            return (
                f"{work.other} was met, but MLX made no connection to it within {work.limit_s:g} s;"
                f" let both firewalls pass Python ({_GUIDE})."
            )
        if status is not None and status < 0:
            words = f" ({rank_0.last_words})" if rank_0.last_words else ""
            return (
                f"rank 0 (this machine) was ended by {signal.Signals(-status).name}{words}; see "
                "whether memory ran out."
            )
        return f"rank 0 (this machine) ended: {_sentence(rank_0.last_words or f'status {status}')}"


def _sentence(words: str) -> str:
    return words if words.endswith(".") else f"{words}."
