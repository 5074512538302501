"""An answer that has a timeline: reading its prompt, then answering, then on its way to the disk.

A job does a piece of work when it is told to and knows nothing of others. Whatever ends it, an
error or a cancel among them, what it read is kept and one last event is given.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from dsv4_mlx.chat.events import Done, Progress, Timing, Usage
from dsv4_mlx.chat.reply import FinishedReply
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.serving.events import Begun, LayersPassed, TokenLikelihood
from dsv4_mlx.serving.job import AnswerJob, ServingClock
from dsv4_mlx.serving.raw_reply import reply_to
from dsv4_mlx.serving.timelines import OpenTimeline, Timelines, places_of

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine
    from dsv4_mlx.engine.generation import Sampler, Token
    from dsv4_mlx.engine.session import Session
    from dsv4_mlx.serving.disk_writer import Writing


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
        self.stored: Writing | None = None
        """What its end waits for."""
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
        if job.state in ("storing", "ended"):
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
        self._done = Done(reason, usage, self._timing(), said.stop_text, use)
        try:
            self.stored = self._timelines.store(self._line, job.prompt.beginnings)
        finally:
            job.state = "storing"
            self.end_stored()

    def end_stored(self) -> None:
        """Tell the end once the disk has what is to outlive the program: a kill loses no turn that
        anybody knows to be over."""
        if self.stored is not None and not self.stored.done():
            return
        if self._timelines.tier is not None:
            self._timelines.tier.settle()
        self.job._end(self._done)

    def fail(self, error: Exception) -> None:
        """Something failed: keep what was read and say so. Raises nothing."""
        if self.job.state == "ended":
            return
        try:
            if self.job.state != "storing":  # else it is kept already
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


def guarded(one: RunningJob, work: Callable[[], None]) -> None:
    """Do a piece of work; whatever it raises ends this job and no other.

    Every kind of error, since models, MLX, disks and outlets raise their own, and the thread is
    everybody's.
    """
    try:
        work()
    except Exception as error:
        one.fail(error)
