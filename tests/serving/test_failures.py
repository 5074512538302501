"""Whatever fails inside one request, the others get what they get alone and the thread goes on."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from dsv4_mlx.chat.events import Done, Progress, TextDelta
from dsv4_mlx.serving.events import Begun, Collected, Refused, ServedEvent
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.ticket import AskedCall
from dsv4_mlx.serving.timelines import OpenTimeline
from tests.serving.served import Serving, alone, asking, said

ILL, WELL = list(range(300, 350)), list(range(400, 440))


class Raising(Collected):
    """An outlet that raises at the first event of a kind, and from then on."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self._kind, self._fails = kind, False

    def emit(self, answer: int, event: ServedEvent) -> None:
        self._fails = self._fails or isinstance(event, self._kind)
        if self._fails:
            raise RuntimeError("nobody takes events here")
        super().emit(answer, event)


class Unasked(Collected):
    """An outlet that does not say whether it is full."""

    @property
    def is_full(self) -> bool:  # type: ignore[override]
        raise RuntimeError("nobody knows")


def beside(serving: Serving, submit: Callable[[], Any]) -> None:
    """Two others, one running and one that waits, are served as if they were alone."""
    first = serving.submit(WELL, asking(10))[1]
    serving.scheduler.step()
    ticket = submit()
    last = serving.submit([*WELL, 5], asking(10))[1]
    serving.finish()
    assert ticket.has_ended
    assert said(first.of()) == said(alone(WELL, asking(10)).of())
    assert said(last.of()) == said(alone([*WELL, 5], asking(10)).of())
    held = [node.held for node in serving.scheduler.timelines._nodes() if node.held is not None]
    assert not any(one.pins or one.line.is_open for one in held)
    assert serving.scheduler.load.reserved_bytes == 0
    again = serving.ask(ILL, asking(10))
    assert said(again) == said(alone(ILL, asking(10)).of())


@pytest.mark.parametrize("most_running", [1, 4])
@pytest.mark.parametrize("kind", [Begun, Progress, TextDelta, Done])
def test_an_outlet_that_raises(kind: type, most_running: int) -> None:
    serving = Serving(limits=ServingLimits(most_running=most_running))
    outlet, prompt = Raising(kind), ServedPrompt(tuple(ILL))
    beside(serving, lambda: serving.scheduler.submit(asking(), prompt, outlet))


@pytest.mark.parametrize("most_running", [1, 4])
def test_an_outlet_that_does_not_say_whether_it_is_full(most_running: int) -> None:
    serving = Serving(limits=ServingLimits(most_running=most_running))
    outlet, prompt = Unasked(), ServedPrompt(tuple(ILL))
    beside(serving, lambda: serving.scheduler.submit(asking(), prompt, outlet))
    assert refusal(outlet) == "The model failed: nobody knows"


def failing(*arguments: Any, **options: Any) -> Any:
    raise ValueError("it was told to fail")


def test_a_constraint_that_cannot_be_made() -> None:
    serving, outlet = Serving(), Collected()
    prompt = ServedPrompt(tuple(ILL))
    beside(serving, lambda: serving.scheduler.submit(asking(), prompt, outlet, failing))
    assert refusal(outlet) == "The request could not begin: it was told to fail"


@pytest.mark.parametrize("name", ["open", "shrink", "keep", "store"])
def test_timelines_that_fail(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serving, outlet = Serving(), Collected()
    timelines = serving.scheduler.timelines
    whole = getattr(timelines, name)

    def once(*arguments: Any, **options: Any) -> Any:
        if tokens_of(*arguments)[: len(ILL)] == ILL:
            monkeypatch.setattr(timelines, name, whole)
            failing()
        return whole(*arguments, **options)

    def submit() -> Any:
        monkeypatch.setattr(timelines, name, once)
        return serving.scheduler.submit(asking(), ServedPrompt(tuple(ILL)), outlet)

    beside(serving, submit)
    ended = outlet.of()[-1]
    if name == "store":  # the answer had ended
        assert isinstance(ended, Done)
    else:
        assert isinstance(ended, Refused) and isinstance(ended.error, ValueError)


def tokens_of(subject: Any = None, *others: Any) -> list[int]:
    """The tokens that a call of timelines is about; room is first made for the ill request."""
    if subject is None:
        return ILL
    return list(subject.session.tokens if isinstance(subject, OpenTimeline) else subject)


def test_a_memory_of_what_was_said_that_fails() -> None:
    serving, outlet = Serving(), Collected()

    def told(job: Any, said: Any) -> None:
        if job.outlet is outlet:
            failing()

    serving.scheduler._on_said = told
    prompt = ServedPrompt(tuple(ILL))
    beside(serving, lambda: serving.scheduler.submit(asking(), prompt, outlet))
    assert refusal(outlet) == "The model failed: it was told to fail"


def refusal(outlet: Collected) -> str:
    last = outlet.of()[-1]
    assert isinstance(last, Refused) and last.kind == "failed" and last.error is not None
    return last.sentence


def test_what_asked_work_raises_goes_to_who_asked() -> None:
    asked = AskedCall(failing)
    asked.run()
    assert isinstance(asked.future.exception(), ValueError)


def test_the_end_of_the_program_ends_the_thread_and_nobody_waits() -> None:
    def leaving() -> None:
        raise SystemExit(3)

    asked = AskedCall(leaving)
    with pytest.raises(SystemExit):
        asked.run()
    future: Future[Any] = asked.future
    assert isinstance(future.exception(), SystemExit)
