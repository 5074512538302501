"""A service in another program's process serves as one in this process does, and ends in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest

from cli.ranks.far_service import FarService
from cli.ranks.messages import FarEnd, Pipes
from cli.ranks.prompts_away import PromptsAway
from cli.ranks.service_server import ServiceServer
from cli.serve.metrics import cache_figures
from dsv4_mlx.chat.answer_settings import AnswerSettings
from dsv4_mlx.chat.events import Done, TextDelta
from dsv4_mlx.chat.settings import Thinking
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.errors import PipelineError, PromptError, UsageError
from dsv4_mlx.scripted.engine import NANO
from dsv4_mlx.scripted.script import Script, ScriptedReply
from dsv4_mlx.serving.events import Collected, Refused
from dsv4_mlx.serving.request import GenerationRequest, ToolChoice
from dsv4_mlx.serving.service import Service
from tests.cli.ranks.far_program import FarProgram, elsewhere
from tests.cli.ranks.pipes import two_pipes

PATIENCE_S = 60.0
SETTINGS = AnswerSettings(Thinking("chat"), loops="off")
TOKENIZER = Tokenizer(NANO)
LONG = ScriptedReply("One more word. ", repeat=400, delay_ms=1)


def script(*replies: str | ScriptedReply, **keys: Any) -> Script:
    told = [ScriptedReply(one) if isinstance(one, str) else one for one in replies]
    return Script(tuple((one,) for one in told), context=4096, **keys)


def asking(text: str = "Hello", **keys: Any) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": text}], SETTINGS, **keys)


class Heard(Collected):
    """Keeps events and says when something of a kind came, and when all is over."""

    def __init__(self, answers: int = 1) -> None:
        super().__init__()
        self.ended, self.said = Flag(), Flag()
        self._left = answers

    def emit(self, answer: int, event: Any) -> None:
        super().emit(answer, event)
        self._left -= isinstance(event, Done | Refused)
        if isinstance(event, TextDelta):
            self.said.set()
        if not self._left:
            self.ended.set()

    def last(self) -> Any:
        assert self.ended.wait(PATIENCE_S)
        return self.events[-1][1]


class Far:
    """A service whose engine runs at the other end of two pipes, on a thread."""

    def __init__(self, told: Script) -> None:
        self.program = FarProgram(told)
        away = PromptsAway(TOKENIZER, told.effort_table, None)
        self.service, self.until = FarService(self.program.engine, TOKENIZER, away), Flag()
        self.raised: list[PipelineError] = []
        self._worker = Thread(target=self._run)
        self._worker.start()

    def _run(self) -> None:
        try:
            self.service.scheduler.run(self.until)
        except PipelineError as error:
            self.raised.append(error)
        self.service.scheduler.end_all()

    def stop(self) -> None:
        self.until.set()
        self.service.scheduler.wake()
        self._worker.join(PATIENCE_S)
        assert not self._worker.is_alive()
        self.program.end()


@contextmanager
def far(*replies: str | ScriptedReply, **keys: Any) -> Iterator[Far]:
    made = Far(script(*replies, **keys))
    try:
        yield made
    finally:
        made.stop()


def told(events: Any) -> list[Any]:
    """Events without what time they took."""
    return [(n, replace(e, timing=None) if isinstance(e, Done) else e) for n, e in events]


def test_requests_get_what_a_service_in_this_process_gives() -> None:
    replies = ("The first answer.", "The second.", "The third.")
    service = Service(elsewhere(script(*replies)), TOKENIZER, script().effort_table)
    requests = [asking(), asking("Hello again"), asking(answers=2)]
    with far(*replies) as other:
        for request in requests:
            here, there = Collected(), Heard(request.answers)
            service.serve(request, here)
            while service.scheduler.step():
                pass
            ticket = other.service.serve(request, there)
            there.last()
            assert told(there.events) == told(here.events) and ticket.has_ended
            assert other.service.prompts.count(request) == service.prompts.count(request)
        assert other.service.longest == service.longest == 4096
        figures = other.service.ask(cache_figures).result(PATIENCE_S)
        assert figures == cache_figures(service) and figures.places > 0
        warm = Heard()
        other.service.warm(asking("Something else"), warm)
        assert isinstance(warm.last(), Done) and warm.last().usage.completion_tokens == 0


def test_what_is_wrong_with_a_request_is_raised_where_it_is_handed_in() -> None:
    with far("Hi.") as other:
        with pytest.raises(PromptError, match="holds 4,096"):
            other.service.serve(asking("word " * 5000), Heard())
        with pytest.raises(UsageError, match="no tools"):
            other.service.serve(asking(tool_choice=ToolChoice("required")), Heard())
        with pytest.raises(PromptError):
            other.service.prompts.write(GenerationRequest([], SETTINGS))
        assert other.service.scheduler.load.waiting == 0
        heard = Heard()
        other.service.serve(asking(), heard)
        assert heard.last().finish_reason == "stop"


def test_a_second_request_waits_for_the_first_and_one_that_leaves_ends() -> None:
    with far(LONG, "Short.") as other:
        first, second = Heard(), Heard()
        ticket = other.service.serve(asking("Tell me much"), first)
        assert first.said.wait(PATIENCE_S)
        other.service.serve(asking("And me"), second)
        load = other.service.scheduler.load
        assert (load.waiting, load.answering) == (1, 1) and not second.events
        assert (load.requests_waiting, load.requests_running) == (1, 1)
        assert other.service.ask(cache_figures).result(PATIENCE_S).reserved_bytes > 0
        ticket.cancel()
        assert first.last().finish_reason == "cancelled"
        assert second.last().finish_reason == "stop"
        load = other.service.scheduler.load
        assert (load.waiting, load.reading, load.answering) == (0, 0, 0)


def test_a_client_that_leaves_while_its_prompt_is_read_ends_the_read() -> None:
    class Reading(Heard):
        def emit(self, answer: int, event: Any) -> None:
            super().emit(answer, event)
            if len(self.events) == 2:
                self.said.set()

    with far("Hi.", chunk=16, prefill_ms=20) as other:
        heard = Reading()
        ticket = other.service.serve(asking("word " * 1500), heard)
        assert heard.said.wait(PATIENCE_S)
        load = other.service.scheduler.load
        assert load.reading == 1 and load.tokens_to_read > 0
        ticket.cancel()
        done = heard.last()
        assert done.finish_reason == "cancelled" and done.usage.completion_tokens == 0
        assert heard.events[-2][1].done < heard.events[-2][1].total


def test_who_reads_slowly_gets_no_more_until_it_reads_again() -> None:
    class Slow(Heard):
        is_full = False

        def emit(self, answer: int, event: Any) -> None:
            super().emit(answer, event)
            self.is_full = self.is_full or len(self.events) == 3

    with far(replace(LONG, repeat=200)) as other:
        heard = Slow()
        other.service.serve(asking(), heard)
        # Rank 0 hears of it a moment later, and works for nobody then.
        scheduler, before = other.service.scheduler, -1
        while before != len(heard.events) or not heard.is_full:
            before = len(heard.events)
            for _ in range(20):
                scheduler.ask(os.getpid).exception(PATIENCE_S)
        assert not heard.ended.is_set()
        heard.is_full = False
        scheduler.wake()
        assert heard.last().finish_reason == "stop"


def test_the_end_of_the_ranks_is_told_to_everybody_who_waits() -> None:
    with far(LONG, "Short.") as other:
        first, second = Heard(), Heard()
        other.service.serve(asking("one"), first)
        assert first.said.wait(PATIENCE_S)
        other.service.serve(asking("two"), second)
        other.program.there.send(FarEnd("rank 1 (mini) is gone."))
        gone = Refused("unavailable", "rank 1 (mini) is gone.")
        assert first.last() == gone and second.events == [(0, gone)]
        with pytest.raises(PipelineError, match=r"^rank 1 \(mini\) is gone\.$"):
            other.service.serve(asking("three"), Heard())
    assert list(map(str, other.raised)) == ["rank 1 (mini) is gone."]


def test_a_mistake_of_ours_in_rank_0_ends_the_ranks_and_is_a_sentence() -> None:
    with far(ScriptedReply("Hm.", crash="boom")) as other:
        heard = Heard()
        other.service.serve(asking(), heard)
        last = heard.last()
        assert isinstance(last, Refused) and last.kind == "failed" and "boom" in last.sentence
        other._worker.join(PATIENCE_S)
    failed = "rank 0 (this machine) failed: RuntimeError: boom; start both ranks again."
    assert list(map(str, other.raised)) == [failed] == list(map(str, other.program.failed))


def test_an_end_that_is_asked_for_cancels_and_tells() -> None:
    with far(LONG) as other:
        first, second = Heard(), Heard()
        other.service.serve(asking("one"), first)
        assert first.said.wait(PATIENCE_S)
        other.service.serve(asking("two"), second)
    assert [one.last().finish_reason for one in (first, second)] == ["cancelled"] * 2
    assert other.raised == other.program.failed == []
    with pytest.raises(PipelineError, match="the server ends"):
        other.service.ask(cache_figures)


def test_rank_0_ends_when_the_server_is_gone() -> None:
    here, there = two_pipes()
    gone = Flag()
    ServiceServer(there, gone.set)
    here._writing.close()
    assert gone.wait(PATIENCE_S)
    assert isinstance(here, Pipes)
