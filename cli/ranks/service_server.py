"""Rank 0's program where it serves requests: the service of one machine, at the end of two pipes.

The process that listens for clients is another one, which outlives this one when the other rank is
lost. Here are the engine, what was read, and the scheduler.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from cli.ranks.failures import log, sentence_of
from cli.ranks.messages import Pipes
from cli.ranks.service_messages import (
    FarFull,
    FarGiven,
    FarLeft,
    FarQuestion,
    FarRequest,
    FarServed,
    FarStop,
)
from dsv4_mlx.chat.events import Done
from dsv4_mlx.errors import Dsv4Error, PipelineError
from dsv4_mlx.serving.events import Refused, ServedEvent
from dsv4_mlx.serving.service import Service
from dsv4_mlx.serving.ticket import Ticket

_HANDS = 4
"""Threads on which prompts are written."""


class ServiceServer:
    """Does for a server in another process what its model's thread would do."""

    def __init__(self, pipes: Pipes, ended: Callable[[], None]) -> None:
        """`ended` is called when the server's end of the pipe is closed."""
        self._pipes, self._ended = pipes, ended
        self._service: Service | None = None
        self._until, self._lock = Flag(), Lock()
        self._open: dict[int, _FarOutlet] = {}
        self._broken: PipelineError | None = None
        self._hands = ThreadPoolExecutor(_HANDS, thread_name_prefix="prompts")
        Thread(target=self._listen, name="server", daemon=True).start()

    def use(self, service: Service) -> None:
        """Serve with this from now on; nobody asks before it is told that the model is loaded."""
        self._service = service

    def serve(self) -> None:
        """On the model's thread, until the server ends it; PipelineError once the other rank is
        gone or this one made a mistake, after which nobody knows how it stands."""
        scheduler = self._served.scheduler
        scheduler.run(self._until)
        if self._broken is not None:
            raise self._broken
        scheduler.end_all()

    def told(self, number: int, answer: int, event: ServedEvent) -> None:
        """An event of a request, on the model's thread."""
        if isinstance(event, Refused) and event.error is not None:
            event = self._failed(event, event.error)
        self._pipes.send(FarServed(number, answer, event))
        if isinstance(event, Done | Refused):
            with self._lock:
                outlet = self._open.get(number)
                if outlet is not None and outlet.is_over():
                    del self._open[number]

    def _failed(self, event: Refused, error: Exception) -> Refused:
        """The same for a client; where the ranks can go on no longer, they end."""
        if isinstance(error, PipelineError):
            self._broken = error
            event = Refused("unavailable", str(error))
        elif not isinstance(error, Dsv4Error | OSError):
            log(error)
            self._broken = PipelineError(f"rank 0 (this machine) failed: {sentence_of(error)}")
        if self._broken is not None:
            self._until.set()
        return replace(event, error=None)

    @property
    def _served(self) -> Service:
        assert self._service is not None
        return self._service

    # On the thread that listens, and on those that write prompts

    def _listen(self) -> None:
        with suppress(EOFError):
            while True:
                self._take(self._pipes.receive())
        self._stop()
        self._ended()

    def _take(self, message: Any) -> None:
        match message:
            case FarRequest():
                self._hands.submit(self._hand_in, message)
            case FarQuestion():
                self._hands.submit(self._ask, message)
            case FarFull(number, is_full):
                if (outlet := self._open.get(number)) is not None:
                    outlet.is_full = is_full
                    self._served.scheduler.wake()
            case FarLeft(number):
                if (outlet := self._open.get(number)) is not None:
                    outlet.cancel()
            case FarStop():
                self._stop()

    def _stop(self) -> None:
        self._until.set()
        with self._lock:
            outlets = list(self._open.values())
        for outlet in outlets:
            outlet.cancel()
        if self._service is not None:
            self._service.scheduler.wake()

    def _hand_in(self, asked: FarRequest) -> None:
        service = self._served
        hand_in = service.warm if asked.is_warm else service.serve
        outlet = _FarOutlet(self, asked.number, 1 if asked.is_warm else asked.request.answers)
        with self._lock:
            self._open[asked.number] = outlet
        try:
            outlet.has(hand_in(asked.request, outlet))
        except Exception as error:  # whoever asked is told, whatever it is
            with self._lock:
                self._open.pop(asked.number, None)
            self._give(asked.number, error=error)
            return
        self._give(asked.number)

    def _ask(self, asked: FarQuestion) -> None:
        work = partial(asked.work, self._served, *asked.arguments)
        found: Future[Any] = Future()
        if asked.on_model:
            found = self._served.scheduler.call(work)
        else:
            try:
                found.set_result(work())
            except Exception as error:  # whoever asked is told, whatever it is
                found.set_exception(error)

        def give(done: "Future[Any]") -> None:
            error = done.exception()
            value = None if error is not None else done.result()
            self._give(asked.number, value, error)

        found.add_done_callback(give)

    def _give(self, number: int, value: Any = None, error: BaseException | None = None) -> None:
        if error is not None and not isinstance(error, Dsv4Error | OSError):
            log(error)
            error = PipelineError(f"rank 0 (this machine) failed: {sentence_of(error)}")
        with suppress(OSError):  # the server is gone, which the other pipe tells
            self._pipes.send(FarGiven(number, value, error))


class _FarOutlet:
    """Where the events of one request go."""

    is_full = False

    def __init__(self, server: ServiceServer, number: int, answers: int) -> None:
        self._server, self._number, self._left = server, number, answers
        self._ticket: Ticket | None = None
        self._is_left = False

    def emit(self, answer: int, event: ServedEvent) -> None:
        """An event, on the model's thread."""
        self._server.told(self._number, answer, event)

    def is_over(self) -> bool:
        """One more of its answers is over; whether all are."""
        self._left -= 1
        return not self._left

    def has(self, ticket: Ticket) -> None:
        """It was handed in."""
        self._ticket = ticket
        if self._is_left:
            ticket.cancel()

    def cancel(self) -> None:
        """Nobody wants it any longer."""
        self._is_left = True
        if self._ticket is not None:
            self._ticket.cancel()
