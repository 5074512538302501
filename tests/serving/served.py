"""Requests served on a fake model, for the tests of the scheduler.

The model draws from the whole history, so a token that is lost, repeated or another request's
changes everything after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Done, Progress, ToolCall
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.engine.sampling import Sampling
from dsv4_mlx.scripted.engine import NANO
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from dsv4_mlx.serving.events import Begun, Collected, ServedEvent, TokenLikelihood
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.scheduler import Scheduler
from dsv4_mlx.serving.ticket import Ticket
from dsv4_mlx.serving.timelines import Timelines

CHUNK = 16


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(NANO)


def asking(
    max_tokens: int | None = 8, temperature: float = 0.0, seed: int | None = 1, **options: Any
) -> GenerationRequest:
    """A request; what it says stands in the prompt that is handed in with it."""
    of_settings = {name: options.pop(name) for name in ("stop", "budget") if name in options}
    settings = AnswerSettings(
        Thinking("chat"),
        sampling=Sampling(temperature, seed=seed),
        max_tokens=max_tokens,
        loops="off",
        **of_settings,
    )
    options.setdefault("wants_likelihoods", bool(options.get("likeliest")))
    return GenerationRequest((), settings, **options)


@dataclass
class Work:
    """A clock that goes with the work of a model: a second for each token, drawn or read."""

    model: FakeModel
    per_read: float = 0.01
    per_drawn: float = 1.0

    def __call__(self) -> float:
        calls = self.model.calls
        return sum(self.per_drawn if tokens == 1 else self.per_read * tokens for tokens in calls)


@dataclass
class Serving:
    """A scheduler on a model of its own."""

    budget_bytes: int = 1 << 40
    limits: ServingLimits = field(default_factory=ServingLimits)
    chunk: int = CHUNK
    model: FakeModel = field(default_factory=lambda: FakeModel(vocab_size=tokenizer().vocab_size))

    options: dict[str, Any] = field(default_factory=dict)
    """The engine's."""
    round_rows: int = 1
    """Answers whose tokens one call of the model gives."""

    def __post_init__(self) -> None:
        self.model.row_finding = RowFinding(8, round_rows=self.round_rows)
        engine = fake_engine(self.model, prefill_chunk=self.chunk, **self.options)
        numbers = count()
        self.scheduler = Scheduler(
            engine,
            tokenizer(),
            Timelines(engine, self.budget_bytes),
            self.limits,
            clock=Work(self.model),
            call_id=lambda: f"call_{next(numbers)}",
        )

    def submit(
        self, prompt: Sequence[int], request: GenerationRequest | None = None, *places: int
    ) -> tuple[Ticket, Collected]:
        """Hand in a request."""
        outlet = Collected()
        served = ServedPrompt(tuple(prompt), places)
        return self.scheduler.submit(request or asking(), served, outlet), outlet

    def finish(self) -> None:
        """Work until nothing is left."""
        while self.scheduler.step():
            pass

    def ask(
        self, prompt: Sequence[int], request: GenerationRequest | None = None, *places: int
    ) -> list[ServedEvent]:
        """The events of the first answer to a request that has the model for itself."""
        _, outlet = self.submit(prompt, request, *places)
        self.finish()
        return list(outlet.of())


def alone(prompt: Sequence[int], request: GenerationRequest) -> Collected:
    """What a request gives with nothing before it and nobody beside it."""
    serving = Serving()
    _, outlet = serving.submit(prompt, request)
    serving.finish()
    return outlet


def said(events: Sequence[ServedEvent]) -> tuple[str, str, int]:
    """What an answer says, why it ended, and how many tokens it has."""
    text = "".join(
        event.raw if isinstance(event, ToolCall) else getattr(event, "text", "") for event in events
    )
    done = ended(events)
    return text, done.finish_reason, done.usage.completion_tokens


def likelihoods(events: Sequence[ServedEvent]) -> list[TokenLikelihood]:
    """What was told of each token of an answer, where that was asked for."""
    return [event for event in events if isinstance(event, TokenLikelihood)]


def ended(events: Sequence[ServedEvent]) -> Done:
    """The last event of an answer that was not refused."""
    done = events[-1]
    assert isinstance(done, Done), done
    assert sum(isinstance(event, Done) for event in events) == 1
    return done


def assert_adds_up(prompt: Sequence[int], events: Sequence[ServedEvent]) -> None:
    """Reused and read are the prompt, in every event that counts them."""
    begun, done = events[0], ended(events)
    assert isinstance(begun, Begun)
    read = [event.done for event in events if isinstance(event, Progress)]
    assert read == sorted(read)
    assert begun == Begun(len(prompt), done.usage.cached_tokens)
    assert begun.cached_tokens <= begun.known_tokens <= len(prompt)
    assert done.usage.prompt_tokens == len(prompt)
    if done.finish_reason != "cancelled":
        assert begun.cached_tokens + (read[-1] if read else 0) == len(prompt)
