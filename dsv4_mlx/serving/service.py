"""What a server stands on: requests in, events out, and one thread that works.

>>> service = Service(engine, tokenizer, effort_table)     # on the model's thread
>>> ticket = service.serve(request, outlet)                # any thread; outlet.emit gets the events
>>> ticket.cancel()                                        # any thread
>>> service.scheduler.run(until)                           # on the model's thread

Prompts are written on the caller's thread, so that a request that cannot be one is refused before
anything waits, and tokens can be counted while the model works.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsv4_mlx.chat.effort import EffortTable
from dsv4_mlx.chat.reply import FinishedReply
from dsv4_mlx.serving.constraint import Constraints
from dsv4_mlx.serving.disk_tier import DiskTier
from dsv4_mlx.serving.events import Outlet
from dsv4_mlx.serving.job import AnswerJob, ServedPrompt, ServingClock
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.prompts import Prompts
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.said import SaidMemory, said_reply
from dsv4_mlx.serving.said_log import FILE, SaidLog
from dsv4_mlx.serving.scheduler import Scheduler
from dsv4_mlx.serving.ticket import Ticket
from dsv4_mlx.serving.timelines import Timelines

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.engine.engine import Engine


class Service:
    """One model for many requests."""

    def __init__(
        self,
        engine: "Engine",
        tokenizer: "Tokenizer",
        effort_table: EffortTable,
        *,
        cache_bytes: int = 1 << 62,
        limits: ServingLimits | None = None,
        folder: Path | None = None,
        disk_bytes: int = 0,
        clock: ServingClock = time.perf_counter,
        call_id: Callable[[], str] | None = None,
    ) -> None:
        """`cache_bytes` bounds what is kept of earlier requests; `limits` what they take together.

        In `folder`, where one is given, timelines of `disk_bytes` and what was said outlive the
        program. Ids of tool calls are random unless `call_id` makes them. OSError for a folder that
        cannot be used.
        """
        self.said = SaidMemory()
        self._engine = engine
        self._log: SaidLog | None = None
        self._vocabulary = engine.config.vocab_size
        self.prompts = Prompts(tokenizer, effort_table, self.said)
        self.constraints = Constraints(tokenizer)
        self.timelines = Timelines(engine, cache_bytes)
        if folder is not None:
            hand = ThreadPoolExecutor(1, "disk")
            tier = DiskTier(folder / "timelines", engine, disk_bytes, clock=clock, hand=hand)
            self.timelines.tier = tier
            self._log = SaidLog(folder / FILE, self.said)
        self.scheduler = Scheduler(
            engine,
            tokenizer,
            self.timelines,
            limits,
            clock=clock,
            call_id=call_id,
            on_said=self._remember,
        )

    @property
    def prompts_away(self) -> Prompts:
        """What counts the tokens of prompts once the model is let go of."""
        return self.prompts

    @property
    def longest(self) -> int:
        """Tokens of a prompt and its reply that the context and memory hold."""
        return self.scheduler.limits.longest(self._engine.max_context)

    def ask(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """What `work(service, *arguments)` gives, done on the model's thread before its next step;
        `work` is a function of a module, since the model may be another program's."""
        return self.scheduler.call(partial(work, self, *arguments))

    def serve(self, request: GenerationRequest, outlet: Outlet) -> Ticket:
        """Hand `request` in; its events come on the model's thread.

        PromptError, and no events, for messages that no prompt can be made of or that the context
        does not hold; UsageError for a choice of tools, or tokens with a bias, that there are not.
        """
        request.shifts.check_tokens(self._vocabulary)
        prompt = self.prompts.write(request)
        self._engine.check(prompt.tokens)  # a schema that no context holds needs no grammar
        thinks = request.settings.effective_thinking.mode == "thinking" and not prompt.goes_on
        held = self.constraints.of(request, thinks=thinks)
        return self.scheduler.submit(request, prompt, outlet, held)

    def _remember(self, job: AnswerJob, said: FinishedReply) -> None:
        if not job.prompt.goes_on and (said.thought or said.answer):
            reply = said_reply(said.message, said.thought, said.answer, job.prompt.asked)
            remember = self.said.remember if self._log is None else self._log.add
            remember(job.request.owner, reply)

    def warm(self, request: GenerationRequest, outlet: Outlet) -> Ticket:
        """Read what `request` begins with, tools and system, so that later ones find it; what is
        kept on disk already is not read."""
        prompt = self.prompts.write(request)
        end = prompt.beginnings[0] if prompt.beginnings else len(prompt.tokens)
        beginning = ServedPrompt(prompt.tokens[: end + 1], prompt.boundaries[:1], prompt.beginnings)
        silent = replace(request, settings=replace(request.settings, max_tokens=0), answers=1)
        return self.scheduler.submit(silent, beginning, outlet)
