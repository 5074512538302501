"""One request from what it asks to its last frame, and whoever asked it may leave at any time."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from cli.serve.bridge import EventBridge, Numbered
from cli.serve.dialect import Asked, Dialect, Frame, Heard
from cli.serve.faults import OF_REFUSALS, Fault, FaultKind, RequestFault
from cli.serve.http_answers import Receive, Send, send_fault, send_json
from cli.serve.limits import HttpLimits
from cli.serve.served_model import ServedModel
from dsv4_mlx.chat.events import Done, Progress
from dsv4_mlx.errors import ContextError, Dsv4Error, PipelineError, PromptError, UsageError
from dsv4_mlx.serving.events import Begun, LayersPassed, Refused, ServedEvent

if TYPE_CHECKING:
    from cli.ranks.far_service import FarTicket
    from dsv4_mlx.serving.ticket import Ticket

    AnyTicket = Ticket | FarTicket

_ENDED = "The server ended in the middle of the answer; ask again when it is back."
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # which asks a proxy before us not to keep it
]


class RequestWatch(Protocol):
    """Whoever counts and logs what happens to a request."""

    def event(self, answer: int, event: ServedEvent, /) -> None: ...

    def generated(self, pieces: int, /) -> None:
        """So many deltas came by now, those that were joined among them."""
        ...

    def end(self, fault: Fault | None, is_gone: bool, /) -> None: ...


class Answering:
    """Serves one request; `respond` writes it."""

    def __init__(
        self,
        model: ServedModel,
        dialect: Dialect,
        asked: Asked,
        limits: HttpLimits,
        watch: RequestWatch,
    ) -> None:
        self._model, self._dialect, self._asked = model, dialect, asked
        self._limits, self._watch = limits, watch
        self._loop = asyncio.get_running_loop()
        self._bridge = EventBridge(self._loop, model.wake)
        self._fault: Fault | None = None
        self._left = asked.request.answers
        self._heard = Heard("waiting")
        self._is_gone = False

    async def respond(self, receive: Receive, send: Send) -> None:
        """Write the answer until it ends, the client leaves or the server does; whatever ends it,
        the model works no longer for it."""
        gone = asyncio.ensure_future(_until_gone(receive))
        handed_in = asyncio.ensure_future(self._hand_in())
        written = asyncio.ensure_future(self._write(send))
        try:
            await asyncio.wait({gone, written}, return_when=asyncio.FIRST_COMPLETED)
            self._is_gone = not written.done()
            if written.done():
                written.result()
        except TimeoutError:  # it reads nothing any more, and its connection has ended
            self._is_gone = True
        finally:
            self._cancel(handed_in)
            for task in (gone, written):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            self._watch.end(self._fault, self._is_gone or self._left > 0)

    # The request

    async def _hand_in(self) -> "AnyTicket | None":
        try:
            if not self._model.is_ready:
                self._heard = Heard("loading")
            service = await self._model.service()
            self._heard = Heard("waiting")
            request = self._asked.request
            return await asyncio.to_thread(service.serve, request, self._bridge)
        except RequestFault as error:
            self._fail(error.fault)
        except Dsv4Error as error:
            self._fail(Fault(_kind_of(error), str(error)))
        except Exception as error:  # whatever it is, the client waits for an answer
            self._fail(Fault("failed", f"The request could not be handed in: {error}"))
        return None

    def _fail(self, fault: Fault) -> None:
        self._fault = self._fault or fault
        self._bridge.tell()

    def _cancel(self, handed_in: "asyncio.Future[AnyTicket | None]") -> None:
        """End what is still under way, also what is only about to be handed in."""

        def cancel(done: "asyncio.Future[AnyTicket | None]") -> None:
            ticket = None if done.cancelled() else done.result()
            if ticket is not None and not ticket.has_ended:
                ticket.cancel()

        handed_in.add_done_callback(cancel)

    # What is written

    async def _write(self, send: Send) -> None:
        if self._asked.streams:
            await self._stream(send)
            return
        while not self._is_over:
            self._written(await self._take(self._limits.heartbeat_s))
        if self._fault is not None:
            await self._refuse(send, self._fault)
        else:
            await send_json(send, 200, await asyncio.to_thread(self._asked.writer.whole))

    async def _stream(self, send: Send) -> None:
        writer, limits = self._asked.writer, self._limits
        # A refusal that comes at once has a status of its own.
        first = await self._take(limits.first_event_s)
        if self._fault is not None:
            await self._refuse(send, self._fault)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        frames = [*writer.begin(), *self._written(first)]
        last = self._loop.time()
        while True:
            is_over = self._is_over
            if is_over:
                frames += await asyncio.to_thread(self._closing)
            if not frames and self._loop.time() - last >= self._gap_s:
                frames = [writer.heartbeat(self._heard)]
            if frames or is_over:
                await _send_frames(send, frames, is_over)
                last = self._loop.time()
            if is_over:
                return
            if self._model.is_crowded:
                await asyncio.sleep(limits.frame_gap_s)
            left = last + self._gap_s - self._loop.time()
            frames = self._written(await self._take(max(0.0, left)))

    async def _refuse(self, send: Send, fault: Fault) -> None:
        await send_fault(send, fault, self._dialect.error(fault))

    def _closing(self) -> Sequence[Frame]:
        writer = self._asked.writer
        return writer.end() if self._fault is None else writer.failed(self._fault)

    @property
    def _gap_s(self) -> float:
        """How long nothing is written."""
        is_told = self._heard.state == "reading" and self._asked.writer.has_comments
        return self._limits.progress_s if is_told else self._limits.heartbeat_s

    @property
    def _is_over(self) -> bool:
        return self._fault is not None or not self._left

    async def _take(self, seconds: float) -> Sequence[Numbered]:
        batch = await self._bridge.take(seconds)
        self._watch.generated(self._bridge.pieces)
        for answer, event in batch:
            self._watch.event(answer, event)
            self._hear(event)
        return batch

    def _hear(self, event: ServedEvent) -> None:
        match event:
            case Begun(prompt, cached):
                self._heard = Heard("reading", 0, prompt - cached)
            case Progress(done, total):
                self._heard = Heard("reading", done, total)
            case LayersPassed(done, total):
                self._heard = Heard("reading", done, total, "layers")
            case Refused(kind, sentence):
                self._fault = self._fault or Fault(OF_REFUSALS[kind], sentence)
            case Done() if _ends_unasked(event):
                self._fault = self._fault or Fault("unavailable", _ENDED)
            case Done():
                self._left -= 1
            case _:
                self._heard = Heard("answering")

    def _written(self, batch: Sequence[Numbered]) -> list[Frame]:
        written = self._asked.writer.event
        return [
            frame
            for answer, event in batch
            if not _ends_unasked(event)
            for frame in written(answer, event)
        ]


def _ends_unasked(event: ServedEvent) -> bool:
    """Whether an answer ends that is not whole. Whoever cancels is gone, so to whom this is told it
    is the model that left."""
    return isinstance(event, Refused) or (
        isinstance(event, Done) and event.finish_reason == "cancelled"
    )


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_frames(send: Send, frames: Sequence[Frame], is_last: bool) -> None:
    body = b"".join(frame.encode() for frame in frames)
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


def _kind_of(error: Dsv4Error) -> FaultKind:
    if isinstance(error, ContextError):
        return "too_long"
    if isinstance(error, PipelineError):
        return "unavailable"
    return "invalid" if isinstance(error, PromptError | UsageError) else "failed"
