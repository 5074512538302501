"""A service whose engine is in rank 0's program; see `dsv4_mlx.serving.service` for the names.

It stands in the process that listens for clients. When the ranks end, whoever waits is told so in a
sentence, and `FarScheduler.run` raises it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Lock
from typing import TYPE_CHECKING, Any

from cli.ranks.far_side import FarEngine
from cli.ranks.prompts_away import PromptsAway
from cli.ranks.service_messages import (
    FarFull,
    FarGiven,
    FarLeft,
    FarQuestion,
    FarRequest,
    FarServed,
    FarStop,
)
from dsv4_mlx.chat.events import Done, Progress, Usage
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.serving.events import Begun, LayersPassed, Outlet, Refused, ServedEvent
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.ticket import Load

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.serving.service import Service

_ENDS = "the server ends."


@dataclass(eq=False)
class _Answer:
    """How far an answer is."""

    state: str = "waiting"
    to_read: int = 0

    def hear(self, event: ServedEvent) -> None:
        """Something of it came."""
        match event:
            case Begun(prompt, cached):
                self.state, self.to_read = "reading", prompt - cached
            case Progress(done, total):
                self.to_read = total - done
            case LayersPassed():
                return
            case _:
                self.state, self.to_read = "answering", 0


@dataclass(eq=False)
class FarTicket:
    """A request that was handed in."""

    number: int
    outlet: Outlet
    left: "dict[int, _Answer]"
    """Its answers that are not over."""
    engine: FarEngine = field(repr=False)
    is_full: bool = False
    """What rank 0 was told."""

    def cancel(self) -> None:
        """End it within a token or a chunk, wherever it is; from any thread, also twice."""
        self.engine.send(FarLeft(self.number))

    @property
    def has_ended(self) -> bool:
        return not self.left

    def emit(self, answer: int, event: ServedEvent) -> None:
        """Give an event; the last one of each answer once."""
        if (known := self.left.get(answer)) is None:
            return
        if isinstance(event, Done | Refused):
            del self.left[answer]
        else:
            known.hear(event)
        self.outlet.emit(answer, event)

    def end(self, event: ServedEvent) -> None:
        """Give this as the end of every answer that is not over."""
        for answer in sorted(self.left):
            self.emit(answer, event)


class FarScheduler:
    """What a server asks of its scheduler, from another process."""

    def __init__(self, engine: FarEngine, clock: Callable[[], float] = time.perf_counter) -> None:
        self.pulse = clock()
        """When rank 0 was heard last."""
        self._engine, self._clock = engine, clock
        self._lock = Lock()
        self._numbers = 0
        self._tickets: dict[int, FarTicket] = {}
        self._asked: dict[int, Future[Any]] = {}
        self._problem = ""

    # From any thread

    @property
    def load(self) -> Load:
        """How much there is to do, by what rank 0 told of it; what is set aside it is asked for
        (`metrics.cache_figures`)."""
        with self._lock:
            requests = [list(ticket.left.values()) for ticket in self._tickets.values()]
        left = [one for answers in requests for one in answers]
        states = [one.state for one in left]
        waiting = sum(any(one.state == "waiting" for one in answers) for answers in requests)
        return Load(
            states.count("waiting"),
            states.count("reading"),
            states.count("answering"),
            sum(one.to_read for one in left),
            0,
            waiting,
            sum(bool(answers) for answers in requests) - waiting,
        )

    def submit(self, request: GenerationRequest, outlet: Outlet, *, is_warm: bool) -> FarTicket:
        """Hand a request in, and wait until rank 0 has; raises what `Service.serve` raises."""
        left = {answer: _Answer() for answer in range(1 if is_warm else request.answers)}
        number, handed_in = self._ask()
        ticket = FarTicket(number, outlet, left, self._engine)
        with self._lock:
            self._tickets[number] = ticket
        self._engine.send(FarRequest(number, request, is_warm))
        try:
            handed_in.result()
        except BaseException:
            with self._lock:
                self._tickets.pop(number, None)
            raise
        return ticket

    def ask(
        self, work: Callable[..., Any], *arguments: Any, on_model: bool = True
    ) -> "Future[Any]":
        """See `FarQuestion`."""
        number, found = self._ask()
        self._engine.send(FarQuestion(number, work, arguments, on_model))
        return found

    def wake(self) -> None:
        """Let `run` look again: an outlet takes events again, or it is to end."""
        self._engine.wake()

    def _ask(self) -> "tuple[int, Future[Any]]":
        found: Future[Any] = Future()
        with self._lock:
            if self._problem:
                raise PipelineError(self._problem)
            self._numbers += 1
            self._asked[self._numbers] = found
            return self._numbers, found

    # On the model's thread

    def run(self, until: Flag) -> None:
        """Hand on what rank 0 says until the flag is set, which `wake` makes it notice; running
        answers stay. PipelineError, told to everybody who waits, once the ranks ended."""
        while not until.is_set():
            try:
                message = self._engine.receive()
            except PipelineError as error:
                self._end(str(error), Refused("unavailable", str(error)))
                raise
            self._take(message)

    def end_all(self) -> None:
        """Cancel everything there is and let rank 0's program end; what was read stays where it is
        kept."""
        if self._problem:
            return
        self._engine.send(FarStop())
        try:
            while True:
                self._take(self._engine.receive())
        except PipelineError:  # the end that was asked for
            self._end(_ENDS, Done("cancelled", Usage(0, 0, 0)))

    def _end(self, problem: str, last: ServedEvent) -> None:
        with self._lock:
            self._problem = problem
            tickets, asked = [*self._tickets.values()], [*self._asked.values()]
        for future in asked:
            _give(future, error=PipelineError(problem))
        for ticket in tickets:
            ticket.end(last)

    def _take(self, message: Any) -> None:
        self.pulse = self._clock()
        match message:
            case FarServed(number, answer, event):
                self._served(number, answer, event)
            case FarGiven(number, value, error):
                with self._lock:
                    future = self._asked.pop(number)
                _give(future, value, error)
            case None:
                self._look_at_full()

    def _served(self, number: int, answer: int, event: ServedEvent) -> None:
        ticket = self._tickets.get(number)
        if ticket is None:
            return
        ticket.emit(answer, event)
        if ticket.has_ended:
            with self._lock:
                self._tickets.pop(number, None)
        elif ticket.outlet.is_full and not ticket.is_full:
            ticket.is_full = True
            self._engine.send(FarFull(number, True))

    def _look_at_full(self) -> None:
        for ticket in list(self._tickets.values()):
            if ticket.is_full and not ticket.outlet.is_full:
                ticket.is_full = False
                self._engine.send(FarFull(ticket.number, False))


class FarPrompts:
    """Prompts that rank 0 writes."""

    def __init__(self, scheduler: FarScheduler, tokenizer: "Tokenizer") -> None:
        self.tokenizer, self._scheduler = tokenizer, scheduler

    def write(self, request: GenerationRequest) -> ServedPrompt:
        """The prompt of `request`; ChatError for messages that none can be made of."""
        written: ServedPrompt = self._scheduler.ask(_written, request, on_model=False).result()
        return written

    def count(self, request: GenerationRequest) -> int:
        """How many tokens the prompt of `request` has."""
        return int(self._scheduler.ask(_counted, request, on_model=False).result())


class FarService:
    """The loaded model of rank 0's program, for many requests."""

    def __init__(
        self, engine: FarEngine, tokenizer: "Tokenizer", prompts_away: PromptsAway
    ) -> None:
        """`prompts_away` counts the tokens of prompts while rank 0's program does not run."""
        self.prompts_away = prompts_away
        self.scheduler = FarScheduler(engine)
        self.prompts = FarPrompts(self.scheduler, tokenizer)
        self.longest = engine.longest
        """Tokens of a prompt and its reply that memory holds on both machines."""

    def serve(self, request: GenerationRequest, outlet: Outlet) -> FarTicket:
        """Hand `request` in."""
        return self.scheduler.submit(request, outlet, is_warm=False)

    def warm(self, request: GenerationRequest, outlet: Outlet) -> FarTicket:
        """Read what `request` begins with."""
        return self.scheduler.submit(request, outlet, is_warm=True)

    def ask(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """What `work(service, *arguments)` gives in rank 0's program; a function of a module."""
        return self.scheduler.ask(work, *arguments)


def _give(future: "Future[Any]", value: Any = None, error: BaseException | None = None) -> None:
    """Answer a question, unless nobody waits for it any longer."""
    if not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)


def _written(service: "Service", request: GenerationRequest) -> ServedPrompt:
    return service.prompts.write(request)


def _counted(service: "Service", request: GenerationRequest) -> int:
    return service.prompts.count(request)
