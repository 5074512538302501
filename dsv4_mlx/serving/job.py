"""One answer on its way: waiting, reading its prompt chunk by chunk, answering token by token.

A job does a piece of work when it is told to and knows nothing of others. Whatever ends it, an
error or a cancel among them, what it read is kept and one last event is given.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Literal

from dsv4_mlx.chat.events import Done, Progress, Timing, Usage
from dsv4_mlx.chat.reply import FinishedReply
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.errors import Dsv4Error
from dsv4_mlx.serving.events import (
    Begun,
    LayersPassed,
    Outlet,
    RefusalKind,
    Refused,
    ServedEvent,
    TokenLikelihood,
)
from dsv4_mlx.serving.raw_reply import reply_to
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.timelines import OpenTimeline, Pin, Timelines, places_of

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.engine.generation import Sampler, Token
    from dsv4_mlx.engine.session import Session
    from dsv4_mlx.serving.constraint import AnswerConstraint

State = Literal["waiting", "reading", "answering", "ended"]
ServingClock = Callable[[], float]


@dataclass(frozen=True)
class ServedPrompt:
    """A request's prompt as tokens. `boundaries` are the offsets where user turns begin, and
    `beginnings` those where what many prompts begin with ends."""

    tokens: tuple[int, ...]
    boundaries: tuple[int, ...] = ()
    beginnings: tuple[int, ...] = ()
    goes_on: bool = False
    """Whether it ends inside an answer, which then goes on without reasoning."""
    asked: str = ""
    """What is asked, as `said.said_before` tells it apart."""


@dataclass(eq=False)
class AnswerJob:
    """Answer number `number` of a request; all but `cancelled` belongs to the model's thread."""

    request: GenerationRequest
    prompt: ServedPrompt
    outlet: Outlet
    number: int = 0
    cancelled: Flag = field(default_factory=Flag)
    constraint_of: "Callable[[], AnswerConstraint] | None" = field(default=None, repr=False)
    """Makes what the answer is held to, where it is held to anything."""
    leader: "AnswerJob | None" = field(default=None, repr=False)
    """The job that reads the prompt first, for this one to go on from where it ends."""
    has_followers: bool = False
    asked_at: float = 0.0
    most_reply: int = 0
    """Tokens that the reply may have."""
    state: State = "waiting"
    reserved_bytes: int = 0
    pin: Pin | None = field(default=None, repr=False)
    read: int = 0
    """Tokens of the prompt that the timeline holds."""
    read_at: int = 0
    """Of all quanta, the number of the one in which it was read last."""
    passed_over: int = 0
    """Requests that began before it although they came later."""

    @property
    def remaining(self) -> int:
        """Tokens to read."""
        found = self.read if self.pin is None else self.pin.tokens
        return len(self.prompt.tokens) - found

    @property
    def must_wait(self) -> bool:
        """Whether its leader has not read the prompt yet."""
        leader = self.leader
        return leader is not None and leader.state in ("waiting", "reading")

    def emit(self, event: ServedEvent) -> None:
        """Give an event."""
        self.outlet.emit(self.number, event)

    def refuse(self, kind: RefusalKind, sentence: str) -> None:
        """End before anything was done."""
        self._end(Refused(kind, sentence))

    def cancel_waiting(self) -> None:
        """End a job that never began."""
        self._end(Done("cancelled", Usage(len(self.prompt.tokens), 0, 0)))

    def fail(self, error: Exception, while_doing: str = "The model failed") -> None:
        """End with an error and say so, if it has not ended."""
        told = str(error) if isinstance(error, Dsv4Error) else f"{while_doing}: {error}"
        self._end(Refused("failed", told, error))

    def _end(self, event: ServedEvent) -> None:
        if self.state != "ended":
            self.state = "ended"
            if self.pin is not None:
                self.pin.release()
            with suppress(Exception):  # an outlet is its caller's; one that fails hears no more
                self.emit(event)


class RunningJob:
    """A job that has a timeline."""

    def __init__(
        self,
        job: AnswerJob,
        engine: "Engine",
        tokenizer: "Tokenizer",
        timelines: Timelines,
        clock: ServingClock,
        call_id: Callable[[], str],
        on_said: Callable[[AnswerJob, FinishedReply], None],
    ) -> None:
        self.job = job
        self._engine, self._timelines, self._clock = engine, timelines, clock
        self._on_said = on_said
        self._reply = reply_to(job.request, job.prompt.goes_on, tokenizer, job.emit, call_id)
        self._constraint = None if job.constraint_of is None else job.constraint_of()
        self._began_at = clock()
        self._first_at = self._last_at = 0.0
        self._prefill_s = 0.0
        request, prompt = job.request, job.prompt
        places = places_of(prompt.boundaries, len(prompt.tokens))
        self._places = sorted({*places, *prompt.beginnings})
        self._known = timelines.look(prompt.tokens, request.owner).matched
        # Last of what may fail: from here on something is held that has to be let go of.
        self._line: OpenTimeline = timelines.open(
            prompt.tokens, request.owner, is_side=request.is_side
        )
        if job.pin is not None:
            job.pin.release()
        self.session: Session = self._line.session
        self._reading: Iterator[int] | None = None
        self._stream: Iterator[Token] | None = None
        job.pin, job.read, job.state = None, self._line.reused, "reading"

    def begin(self) -> None:
        """Tell what needs no reading."""
        reused = self._line.reused
        self.job.emit(Begun(len(self.job.prompt.tokens), reused, max(reused, self._known)))

    def is_ready(self, others_wait: bool) -> bool:
        """Whether it is to be worked for. While its client reads nothing it rests, but where others
        wait for its place it goes on, and what it says lies in memory to its end."""
        is_full = self.job.outlet.is_full and not self.job.cancelled.is_set()
        if is_full and not others_wait:
            self.session.rest()
        return others_wait or not is_full

    def read(self, chunks: int) -> int:
        """Read at most so many chunks; how many it were."""
        job, total = self.job, len(self.job.prompt.tokens)
        if self._reading is None:
            self._reading = self.session.reading(job.prompt.tokens, self._places)
            job.read = next(self._reading)
        done = 0
        while job.read < total and done < chunks and not job.cancelled.is_set():
            job.read = next(self._reading)
            done += 1
        if done:
            job.emit(Progress(job.read - self._line.reused, total - self._line.reused))
        if job.read == total and not job.cancelled.is_set():
            self._begin_answer()
        return done

    def read_at_once(self) -> None:
        """Read the whole prompt as one unit, as models do that pass it through layer by layer."""
        job, reused = self.job, self._line.reused
        found = self.session.sync(
            job.prompt.tokens,
            lambda done, total: job.emit(Progress(done, total)),
            job.cancelled,
            places=self._places,
            on_layer=lambda done, total: job.emit(LayersPassed(done, total)),
        )
        job.read = reused + found.read
        if not found.cancelled:
            self._begin_answer()

    def answer(self) -> None:
        """Generate one token, that of a round if it started one; none once it is cancelled."""
        assert self._stream is not None
        token = next(self._stream, None)
        if token is None:
            self.end()
            return
        self._last_at = self._clock()
        self._first_at = self._first_at or self._last_at
        if self._constraint is not None:
            self._constraint.take(token.id)
        if self.job.request.wants_likelihoods:
            self.job.emit(TokenLikelihood(token.id, token.logprob, token.likeliest))
        if self._reply.take(token, self.session.hold):
            self.end()

    def end(self) -> None:
        """The reply is over, or nobody wants it any longer."""
        job = self.job
        if job.state == "ended":
            return
        self._leave()
        said = self._reply.close()
        if said.stop_text is not None:
            self.session.rewind(len(job.prompt.tokens) + said.kept)
        self._keep()
        if job.state == "answering":
            self._on_said(job, said)
        reused = self._line.reused
        use = self.session.draft_use if job.state == "answering" else None
        usage = Usage(
            len(job.prompt.tokens), reused, self._reply.generated, self._reply.reasoning_tokens
        )
        is_full = said.finish_reason == "cancelled" and job.request.settings.max_tokens == 0
        reason = "length" if is_full and not job.cancelled.is_set() else said.finish_reason
        try:  # before its end is told, so that a kill loses no turn that anybody knows to be over
            self._timelines.store(self._line, job.prompt.beginnings)
        finally:
            job._end(Done(reason, usage, self._timing(), said.stop_text, use))

    def fail(self, error: Exception) -> None:
        """Something failed: keep what was read and say so. Raises nothing."""
        if self.job.state == "ended":
            return
        try:
            self._leave()
            self._keep()
        except Exception:  # the timeline ails too, in whatever way: what it read is not kept
            self._line.close()
        self.job.fail(error)

    def _begin_answer(self) -> None:
        job = self.job
        self._prefill_s = self._clock() - self._began_at
        if job.has_followers:
            self._timelines.keep(self._line, job.prompt.beginnings)
        settings = job.request.settings
        sampling = settings.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + job.number)
        limit = job.most_reply
        self._stream = self.session.stream(
            limit,
            **asdict(sampling),
            shifts=job.request.shifts,
            likeliest=job.request.likeliest if job.request.wants_likelihoods else 0,
            sampler=self._sampler(sampling),
            cancel=job.cancelled,
            steer=self._reply.steer,
            regime=self._reply.regime,
        )
        job.state = "answering"
        if not limit:
            self.end()

    def _sampler(self, sampling: Sampling) -> "Sampler | None":
        """What draws in the place of `sampling`; None for that alone."""
        if self._constraint is None:
            return None
        from dsv4_mlx.engine.generation import sampler_of

        return self._constraint.sampler(sampler_of(sampling))

    def _leave(self) -> None:
        """Let go of whatever is under way."""
        under_way: list[Any] = [self._reading, self._stream]  # generators, which can be closed
        for generator in under_way:
            if generator is not None:
                generator.close()

    def _keep(self) -> None:
        self.job.reserved_bytes = 0  # from here on it is what is kept that counts
        self._timelines.keep(self._line, self.job.prompt.beginnings)
        self._line.close()

    def _timing(self) -> Timing:
        generated = self._reply.generated
        if not generated:
            return Timing(self._prefill_s)
        first = self._first_at - self.job.asked_at
        return Timing(self._prefill_s, first, self._last_at - self._first_at, generated)
