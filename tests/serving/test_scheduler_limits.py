"""Who has to wait: memory, places and time are limited, and whoever waits gets its turn."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.serving.events import Refused
from dsv4_mlx.serving.limits import ServingLimits
from tests.serving.served import Serving, asking, ended

SHARED = list(range(300, 340))


def test_a_request_that_never_fits_is_refused_with_the_numbers() -> None:
    serving = Serving(limits=ServingLimits(memory_bytes=1000, bytes_of=lambda tokens: 10 * tokens))
    (event,) = serving.ask(SHARED, asking(100))
    assert isinstance(event, Refused) and event.kind == "memory"
    assert "40 tokens" in event.sentence


@pytest.mark.parametrize("asked", [None, 5000])
def test_a_reply_is_as_long_as_memory_holds_whoever_else_asks(asked: int | None) -> None:
    limits = ServingLimits(memory_bytes=4000, bytes_of=lambda tokens: 10 * tokens)
    serving = Serving(limits=limits)
    _, outlet = serving.submit(SHARED, asking(asked))
    serving.submit([500] * 20, asking(30))
    serving.finish()
    done = ended(outlet.of())
    assert (done.finish_reason, done.usage.completion_tokens) == ("length", 360)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 10)), max_size=6), st.integers(0, 4))
def test_memory_is_set_aside_before_a_request_begins(
    asked: list[tuple[int, int]], shared: int
) -> None:
    limits = ServingLimits(memory_bytes=1000, bytes_of=lambda tokens: 10 * tokens)
    serving = Serving(limits=limits)
    tickets = [
        serving.submit([*SHARED[:shared], *[500 + number] * length], asking(reply))[0]
        for number, (length, reply) in enumerate(asked)
    ]
    while serving.scheduler.step():
        assert serving.scheduler.load.reserved_bytes <= 1000
    assert all(ticket.has_ended for ticket in tickets)


def test_a_large_request_is_not_passed_for_ever() -> None:
    limits = ServingLimits(memory_bytes=1000, bytes_of=lambda tokens: 10 * tokens)
    serving = Serving(limits=limits)
    serving.submit([500] * 20, asking(20))
    serving.scheduler.step()
    large, _ = serving.submit([501] * 60, asking(20))
    others = 0
    while not large.has_ended:
        serving.submit([600 + others] * 20, asking(4))
        serving.scheduler.step()
        others += 1
        assert others < 300


def test_no_more_than_so_many_wait_and_none_for_longer_than_allowed() -> None:
    limits = ServingLimits(most_running=1, most_waiting=2, longest_wait_s=5.0)
    serving = Serving(limits=limits)
    outlets = [serving.submit([300 + number] * 20, asking(30))[1] for number in range(4)]
    serving.finish()
    kinds = [getattr(outlet.of()[-1], "kind", "done") for outlet in outlets]
    assert kinds == ["done", "waited", "busy", "busy"]


def test_a_request_with_several_answers_is_one_that_waits() -> None:
    serving = Serving(limits=ServingLimits(most_running=1, most_waiting=2))
    several = asking(4, answers=5)
    outlets = [serving.submit([300 + number] * 20, several)[1] for number in range(3)]
    serving.scheduler.step()
    load = serving.scheduler.load
    assert (load.waiting, load.requests_waiting, load.requests_running) == (9, 2, 0)
    serving.finish()
    ends = [[outlet.of(answer)[-1] for answer in range(5)] for outlet in outlets]
    kinds = [[getattr(end, "kind", "done") for end in one] for one in ends]
    assert kinds == [["done"] * 5, ["done"] * 5, ["busy"] * 5]


def test_a_request_waits_until_the_last_of_its_answers_begins() -> None:
    serving = Serving(limits=ServingLimits(most_running=1, most_waiting=1))
    first, _ = serving.submit([300] * 20, asking(4, answers=2))
    while first.jobs[1].state == "waiting":
        assert ended_as(serving, [400] * 20) == "busy"
    assert ended_as(serving, [400] * 20) == "waiting"


def ended_as(serving: Serving, prompt: list[int]) -> str:
    """How a request stands after one step that began with its arrival."""
    ticket, outlet = serving.submit(prompt, asking(4))
    serving.scheduler.step()
    return getattr(outlet.of()[-1], "kind", "done") if ticket.has_ended else "waiting"
