"""Many requests on the one thread that owns the model.

`submit` may be called from any thread, `step` does one piece of work on the model's: a quantum of
one read, or a round of one token for everybody who answers. Nothing that others do, and no time,
changes where a read is cut or what is drawn, so a request gives the tokens that it gives alone.
A failure inside one request, of the model, a disk or an outlet, ends that request alone.

Who is read: the shortest rest first; every fourth quantum goes to whoever waited longest, so that
nothing starves. Who begins: in the order of arrival, as long as memory for prompt and reply can be
set aside; one that waits for memory is passed a few times and then no longer.

A round gives each answer one token. Where the engine's `round_rows` are more than one, so many of
them are read by one call, see `engine.rounds`; the first token of an answer, and those of a block
of drafts that was open when another answer began, have calls of their own.

A model whose weights are elsewhere, in files or on another machine, serves one request at a time.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from threading import Event as Flag
from typing import TYPE_CHECKING, Final

from dsv4_mlx.chat.reply import FinishedReply
from dsv4_mlx.errors import PromptError
from dsv4_mlx.serving.admission import Admission
from dsv4_mlx.serving.arrivals import Arrivals, RequestJobs
from dsv4_mlx.serving.events import Outlet
from dsv4_mlx.serving.job import AnswerJob, ServedPrompt, ServingClock
from dsv4_mlx.serving.leaving import Leaving
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.pace import TurnPace
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.rounds import start_round
from dsv4_mlx.serving.running_job import RunningJob, guarded
from dsv4_mlx.serving.ticket import Load, Result, Ticket, requests_of
from dsv4_mlx.serving.timelines import Timelines

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.serving.constraint import AnswerConstraint

_FOR_THE_OLDEST: Final = 4
"""Of so many quanta one goes to the read that waited longest."""
_MOST_PASSES: Final = 8
"""Requests that may begin before one that waits for memory."""


class Scheduler:
    """Serves requests with one engine; see the module."""

    def __init__(
        self,
        engine: "Engine",
        tokenizer: "Tokenizer",
        timelines: Timelines,
        limits: ServingLimits | None = None,
        *,
        clock: ServingClock = time.perf_counter,
        call_id: Callable[[], str] | None = None,
        on_said: Callable[[AnswerJob, FinishedReply], None] = lambda job, said: None,
    ) -> None:
        """`on_said` is told of every answer that ended, its cancelled ones too."""
        self.timelines = timelines
        self.limits = limits or ServingLimits()
        self._engine, self._tokenizer, self._clock = engine, tokenizer, clock
        self._call_id = call_id or (lambda: f"call_{secrets.token_hex(12)}")
        self._on_said = on_said
        self._arrivals = Arrivals()
        self._waiting: list[AnswerJob] = []
        self._running: list[RunningJob] = []
        self._leaving = Leaving(self.wake)
        self._pace = TurnPace(clock, self.limits.quantum_s)
        self._quanta = 0
        self._has_changed = False
        """Whether another request may be able to begin since that was looked at last."""
        self._load = Load.of((), ())
        self.pulse = clock()
        """When the last step began: while there is work it is never long ago."""
        self._memory = Admission(timelines, self.limits, lambda: [o.job for o in self._running])

    # From any thread

    def submit(
        self,
        request: GenerationRequest,
        prompt: ServedPrompt,
        outlet: Outlet,
        constraint_of: "Callable[[], AnswerConstraint] | None" = None,
    ) -> Ticket:
        """Hand a request in; its events come on the model's thread.

        `constraint_of` makes what each answer is held to. PromptError, and no events, for a prompt
        that the model's context does not hold. After `end_all` it is cancelled here and now.
        """
        self._engine.check(prompt.tokens)
        if request.answers < 1:
            raise PromptError(f"A request needs at least one answer, got {request.answers}.")
        now = self._clock()
        new = partial(AnswerJob, request, prompt, outlet, asked_at=now, constraint_of=constraint_of)
        first = new(has_followers=request.answers > 1)
        others = (new(number=number, leader=first) for number in range(1, request.answers))
        ticket = Ticket((first, *others), self.wake)
        self._arrivals.hand_in(ticket.jobs)
        return ticket

    def wake(self) -> None:
        """Let `run` look again: somebody cancelled, or an outlet takes events again."""
        self._arrivals.wake()

    def call(self, work: Callable[[], Result]) -> "Future[Result]":
        """Let the model's thread do `work` before its next step, such as a look at `timelines`.

        After `end_all` the future has ServiceEnded.
        """
        return self._arrivals.call(work)

    @property
    def load(self) -> Load:
        """How much there was to do after the last step."""
        return self._load

    # On the model's thread

    def run(self, until: Flag) -> None:
        """Work until the flag is set, which `wake` makes it notice; running answers stay."""
        while not until.is_set():
            if not self.step():
                self._take_arrivals(waits=True)

    def step(self) -> bool:
        """Do one piece of work; False when there is none until somebody calls."""
        self.pulse = self._clock()
        self._take_arrivals()
        self._leaving.end_stored()
        self._end_cancelled()
        if self._has_changed:
            self._has_changed = False
            self._begin_waiting()
        before = [one.job.state for one in self._running]
        did = self._turn()
        self._running = self._leaving.part(self._running)
        self._has_changed = self._has_changed or before != [one.job.state for one in self._running]
        self._load = Load.of(self._waiting, [one.job for one in self._running])
        did = did or (self._has_changed and bool(self._waiting))
        if did or not self._leaving:
            return did
        self._take_arrivals(waits=True)  # the disk's word is one of them
        return True

    def end_all(self) -> None:
        """Cancel everything there is, and what is handed in from now on, since nobody works for it
        any longer; what was read stays in the timelines."""
        self._arrivals.close()
        self._take_arrivals()
        for job in (*self._waiting, *(one.job for one in self._running)):
            job.cancelled.set()
        self._end_cancelled()
        self._leaving.end_stored()  # those whose word was taken already, which comes once
        while self._leaving:
            self._take_arrivals(waits=True)
            self._leaving.end_stored()
        self._load = Load.of(self._waiting, [one.job for one in self._running])

    def _take_arrivals(self, *, waits: bool = False) -> None:
        for jobs in self._arrivals.taken(waits=waits):
            self._take(jobs)

    def _take(self, jobs: RequestJobs) -> None:
        limits, request, tokens = self.limits, jobs[0].request, jobs[0].prompt.tokens
        asked = request.settings.max_tokens
        reply = limits.reply_tokens(len(tokens), asked, self._engine.max_context)
        requests_waiting = requests_of(self._waiting)
        for job in jobs:
            if reply is None:
                job.refuse("memory", limits.too_much(len(tokens), asked))
            elif requests_waiting >= limits.most_waiting:
                job.refuse("busy", f"{limits.most_waiting} requests wait already; try again later.")
            else:
                job.most_reply, job.read_at = reply, self._quanta
                job.pin = self.timelines.pin(tokens, request.owner)
                self._waiting.append(job)
                self._has_changed = True

    def _end_cancelled(self) -> None:
        waited, before = self.limits.longest_wait_s, (len(self._waiting), len(self._running))
        for job in self._waiting:
            if job.cancelled.is_set():
                job.cancel_waiting()
            elif waited is not None and self._clock() - job.asked_at > waited:
                job.refuse("waited", f"The model was busy for {waited:g} seconds; try again later.")
        self._waiting = [job for job in self._waiting if job.state == "waiting"]
        for one in self._running:
            if one.job.cancelled.is_set():
                guarded(one, one.end)
        self._running = self._leaving.part(self._running)
        if before != (len(self._waiting), len(self._running)):
            self._has_changed = True

    # Who begins

    @property
    def _serves_one(self) -> bool:
        return self._engine.drafting.weights_elsewhere or self._engine.reads_by_layers

    def _begin_waiting(self) -> None:
        for job in list(self._waiting):
            if len(self._running) >= (1 if self._serves_one else self.limits.most_running):
                return
            if job.must_wait:
                continue
            try:
                fits = self._memory.set_aside(job, self._waiting)
            except Exception as error:  # see `guarded`: making room computes too
                job.fail(error, "There was no making room for the request")
                continue
            if not fits:
                if job.passed_over >= _MOST_PASSES:
                    return
                continue
            self._waiting.remove(job)
            for other in self._waiting:
                other.passed_over += other.asked_at < job.asked_at
            self._begin(job)

    def _begin(self, job: AnswerJob) -> None:
        try:
            running = RunningJob(
                job,
                self._engine,
                self._tokenizer,
                self.timelines,
                self._clock,
                self._call_id,
                self._on_said,
            )
        except Exception as error:  # see `guarded`
            job.fail(error, "The request could not begin")
            return
        self._running.append(running)
        guarded(running, running.begin)

    # Whose turn it is

    def _turn(self) -> bool:
        ready = [one for one in self._running if self._is_ready(one)]
        answering = [one for one in ready if one.job.state == "answering"]
        reading = [one for one in ready if one.job.state == "reading"]
        if not answering:
            self._pace.nobody_answers()
        if answering and (self._pace.answers_next or not reading):
            self._pace.begin()
            start_round(self._engine, answering)
            for one in answering:
                if one.job.state == "answering":
                    guarded(one, one.answer)
            self._pace.answered()
            return True
        if reading:
            self._read(self._next_read(reading))
            return True
        return False

    def _is_ready(self, one: RunningJob) -> bool:
        ready: list[bool] = []
        guarded(one, lambda: ready.append(one.is_ready(bool(self._waiting))))
        return ready == [True]

    def _next_read(self, reading: Iterable[RunningJob]) -> RunningJob:
        if self._quanta % _FOR_THE_OLDEST == _FOR_THE_OLDEST - 1:
            return min(reading, key=lambda one: one.job.read_at)
        return min(reading, key=lambda one: one.job.remaining)

    def _read(self, one: RunningJob) -> None:
        self._quanta += 1
        one.job.read_at = self._quanta
        self._pace.begin()
        if self._serves_one:
            guarded(one, one.read_at_once)
            return
        chunks = self._pace.chunks
        read: list[int] = []
        guarded(one, lambda: read.append(one.read(chunks)))
        self._pace.read(sum(read))
