"""The model of a server: loading, ready, idle, lost or failed, and the thread that works for it.

Requests wait until it is ready. While nobody asked anything for long it may be let go of; what it
read is on disk by then, and the next request loads it again. A model on two machines is lost when a
rank is; requests are refused then until both ranks run again.
"""

import asyncio
import gc
import re
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Event as Flag
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from cli.opened_model import OpenedModel
from cli.serve.faults import RequestFault
from cli.worker import Worker
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.errors import Dsv4Error, PipelineError

if TYPE_CHECKING:
    from cli.ranks.far_service import FarPrompts, FarService, PromptsAway
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.serving.prompts import Prompts
    from dsv4_mlx.serving.service import Service

    ServedHere = Service | FarService
    CountedPrompts = Prompts | FarPrompts | PromptsAway

ModelState = Literal["loading", "ready", "idle", "lost", "failed"]
STATES: Final[tuple[ModelState, ...]] = get_args(ModelState)
_CURE: Final = re.compile(r"[;,][^;,]*\bstart (both ranks )?again\.$|\.$")
"""What a person at a terminal is told to do."""
CROWDED: Final = 4
"""Answers at once from which on their frames are joined."""


class ServedModel:
    """See the module. `open_model` begins to load it, `make_service` serves it on its thread."""

    def __init__(
        self,
        worker: Worker,
        open_model: Callable[[], OpenedModel],
        make_service: "Callable[[Any, Tokenizer], ServedHere]",
        *,
        end_ranks: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`end_ranks` ends the processes of a model that lies on two machines."""
        self._end_ranks = end_ranks
        self._lost = ""
        self._worker, self._open_model, self._make_service = worker, open_model, make_service
        self._clock = clock
        self._until = Flag()
        self._run: Future[None] | None = None
        self._opened: OpenedModel | None = None
        self._tokenizer: Tokenizer | None = None
        self._prompts_away: CountedPrompts | None = None
        self._context: int | None = None
        self.settings: ChatSettings
        """What its files say about chatting with it, from `start` on."""
        self.name = ""
        self._service: Future[ServedHere] = Future()
        self._stop_reason: str | None = None
        self._is_idle = False
        self.last_event = clock()
        """When anything was heard of the model last; as the scheduler's, by `perf_counter`."""

    def hear(self) -> None:
        """Something was heard of the model."""
        self.last_event = self._clock()

    @property
    def context(self) -> int:
        """Tokens of prompt and reply together, as memory allows; as its files say until it is
        loaded."""
        return self.settings.context if self._context is None else self._context

    def start(self) -> OpenedModel:
        """Begin to load; raises what `open_model` raises."""
        self._until, self._service = Flag(), Future()
        opened = self._open_model()
        self.settings, self.name, self._is_idle = opened.settings, opened.name, False
        self._opened = opened
        until, service = self._until, self._service
        self._run = self._worker.submit(lambda: self._work(opened, until, service))
        return opened

    def _work(self, opened: OpenedModel, until: Flag, ready: "Future[ServedHere]") -> None:
        try:
            engine, tokenizer = opened.opening.result()
            service = self._make_service(engine, tokenizer)
        except BaseException as error:  # handed on to whoever waits for the model
            # One that ran before and does not come again is tried again, not given up.
            if isinstance(error, PipelineError) and self._context is not None:
                self._lost = str(error)
            ready.set_exception(error)
            return
        self._tokenizer = tokenizer
        self._prompts_away = service.prompts_away
        self._context = service.longest
        ready.set_result(service)
        try:
            service.scheduler.run(until)
        except PipelineError as error:
            if self._end_ranks is None:
                raise
            self._lost = str(error)
        finally:
            service.scheduler.end_all()
            engine.memory.release()
            if self._end_ranks is not None:
                self._end_ranks()

    # From the event loop

    async def service(self) -> "ServedHere":
        """What serves, once the model is loaded; RequestFault where it cannot be."""
        if self._stop_reason is not None:
            raise RequestFault("unavailable", self._stop_reason)
        if self._lost:
            raise RequestFault("unavailable", f"{self.why_lost}, ask again soon.")
        try:
            if self._is_idle:
                self.start()
            service = await asyncio.shield(asyncio.wrap_future(self._service))
        except Dsv4Error as error:
            raise RequestFault("unavailable", f"The model cannot be loaded: {error}") from error
        if self.state == "failed":
            raise RequestFault("unavailable", f"The model failed: {self.why_failed}.")
        return service

    async def prompts(self) -> "CountedPrompts":
        """What counts the tokens of prompts; it waits for no model that is let go of, or comes
        back. RequestFault as `service`."""
        is_away = self.state in ("idle", "loading") and self._stop_reason is None
        if self._prompts_away is not None and is_away:
            return self._prompts_away
        return (await self.service()).prompts

    async def start_again(self) -> bool:
        """Start a model again that is lost; whether it runs, else `why_failed` is why not."""
        try:
            self.start()
            await asyncio.shield(asyncio.wrap_future(self._service))
        except Dsv4Error as error:
            self._lost = str(error)
            return False
        except Exception:  # a mistake of ours fails the same way the next time
            self._lost = ""
            raise
        self._lost = ""
        return True

    @property
    def notes(self) -> "list[str]":
        """Sentences about how it runs, once it is loaded; each is told once."""
        return [] if self._opened is None else self._opened.notes()

    @property
    def state(self) -> ModelState:
        """How it is with it."""
        if self._is_idle:
            return "idle"
        if self._lost:
            return "lost"
        if not self._service.done():
            return "loading"
        is_over = self._run is not None and self._run.done()
        return "failed" if is_over or self._service.exception() is not None else "ready"

    @property
    def why_failed(self) -> str:
        """Why it serves nothing, for `failed` and `lost`."""
        if self._lost:
            return self._lost
        for future in (self._service, self._run):
            if future is not None and future.done() and (error := future.exception()) is not None:
                return str(error) or type(error).__name__
        return "its thread has ended"

    @property
    def why_lost(self) -> str:
        """Why it is `lost`, and what is done about it: a sentence without its end."""
        return f"{_CURE.sub('', self._lost)}; both ranks are started again"

    @property
    def is_ready(self) -> bool:
        return self.state == "ready"

    @property
    def is_crowded(self) -> bool:
        """Whether so many are answered at once that frames are worth joining."""
        return self.is_ready and self.running.scheduler.load.answering >= CROWDED

    @property
    def running(self) -> "ServedHere":
        """What serves; only while it is ready."""
        return self._service.result(timeout=0)

    @property
    def silence_s(self) -> float:
        """Seconds for which nothing was heard of the model's thread while it had work; else 0."""
        if not self.is_ready:
            return 0.0
        scheduler = self.running.scheduler
        load = scheduler.load
        if not (load.waiting or load.reading or load.answering):
            return 0.0
        return max(0.0, self._clock() - max(self.last_event, scheduler.pulse))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token of the loaded model."""
        return b"" if self._tokenizer is None else self._tokenizer.token_bytes(token)

    def wake(self) -> None:
        """Let the scheduler look again."""
        if self._service.done() and self._service.exception() is None:
            self.running.scheduler.wake()

    def let_go(self) -> Callable[[], None]:
        """Let go of a model that is ready and does nothing; what it read is on disk. From now on it
        is idle, and its memory is free once what this returns has been called, from any thread;
        until then nothing loads."""
        opened, scheduler, may_free = self._opened, self.running.scheduler, Flag()
        self._is_idle, self._service = True, Future()
        self._run = self._opened = None
        self._until.set()

        def free() -> None:
            may_free.wait()  # while this method runs, it holds what is to go
            if opened is not None:
                opened.close()
            gc.collect()

        # Now, so that a request which loads the model again comes behind it.
        freed = self._worker.submit(free)
        scheduler.wake()

        def wait() -> None:
            may_free.set()
            freed.result()

        return wait

    def stop(self, reason: str) -> None:
        """Serve nothing more; what runs is cancelled, and what it read kept. Waits for it."""
        self._stop_reason = reason
        is_loading = not self._service.done()
        self._until.set()
        self.wake()
        if self._run is not None and not is_loading:
            self._run.exception()  # which `why_failed` tells
