"""Many requests on one thread: each gets what it gets alone, and nobody starves."""

from collections.abc import Sequence
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.chat.events import Done, Progress
from dsv4_mlx.engine.drafters import Lookup
from dsv4_mlx.engine.sampling import NO_SHIFTS, Shifts
from dsv4_mlx.errors import PromptError, ServiceEnded
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.serving.events import Begun, Collected, Refused
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.request import GenerationRequest
from tests.serving.served import (
    Serving,
    alone,
    asking,
    assert_adds_up,
    ended,
    likelihoods,
    said,
    tokenizer,
)

SHARED = list(range(300, 340))
SHIFTS = Shifts(2.0, 0.5, ((700, 4.0), (701, 3.5), (702, 3.0), (1, -100.0)))
"""Tokens that are likelier than most, until they were said."""

PROMPTS = st.tuples(st.integers(0, 40), st.lists(st.integers(500, 503), min_size=1, max_size=40))
REQUESTS = st.builds(
    asking,
    max_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2),
    answers=st.integers(1, 3),
    is_side=st.booleans(),
    owner=st.sampled_from(["", "other"]),
    stop=st.sampled_from([(), ("e",), ("the", "a")]),
    text=st.sampled_from([None, None, "raw"]),
    shifts=st.sampled_from([NO_SHIFTS, SHIFTS]),
    likeliest=st.sampled_from([0, 3]),
)
ARRIVAL = st.tuples(PROMPTS, REQUESTS, st.integers(0, 10), st.none() | st.integers(0, 15))


@settings(max_examples=25)
@given(
    st.lists(ARRIVAL, min_size=1, max_size=4),
    st.integers(0, 200_000),
    st.integers(1, 4),
    st.sampled_from([1, 5, 16]),
    st.sampled_from([1, 2, 8]),
)
def test_any_interleaving_gives_each_what_it_gets_alone(
    arrivals: list[Any], budget: int, running: int, chunk: int, round_rows: int
) -> None:
    limits = ServingLimits(most_running=running, quantum_s=0.5)
    serving = Serving(budget, limits, chunk, round_rows=round_rows)
    handed_in = []
    for (shared, rest), request, steps, cancel_after in arrivals:
        prompt = [*SHARED[:shared], *rest]
        ticket, outlet = serving.submit(prompt, request)
        for _ in range(steps):
            serving.scheduler.step()
        handed_in.append((prompt, request, ticket, outlet, cancel_after))
    for _, _, ticket, _, cancel_after in handed_in:
        if cancel_after is not None:
            for _ in range(cancel_after):
                serving.scheduler.step()
            ticket.cancel()
    serving.finish()
    for prompt, request, ticket, outlet, cancel_after in handed_in:
        assert ticket.has_ended
        for answer in range(request.answers):
            expect_alone(prompt, request, outlet, answer, cancel_after is not None)
    assert serving.scheduler.timelines.nbytes <= budget


def expect_alone(
    prompt: list[int], request: GenerationRequest, outlet: Collected, answer: int, may_end: bool
) -> None:
    found, expected = outlet.of(answer), alone(prompt, request).of(answer)
    done = ended(found)
    if isinstance(found[0], Begun):
        assert_adds_up(prompt, found)
    if done.finish_reason == "cancelled":
        assert may_end
        text, whole = said(found)[0].rstrip("�"), said(expected)[0]
        assert whole.startswith(text) or request.settings.stop
    else:
        assert said(found) == said(expected)
        assert likelihoods(found) == likelihoods(expected)


def test_a_request_is_told_where_it_parts_from_what_was_read() -> None:
    serving = Serving()
    cold, parted = serving.ask(SHARED)[0], serving.ask([*SHARED[:30], 500, 501])[0]
    assert isinstance(cold, Begun) and isinstance(parted, Begun)
    assert (cold.known_tokens, parted.known_tokens) == (0, 30)
    assert parted.cached_tokens < 30


def test_answers_of_one_request_share_the_reading_and_differ_by_seed() -> None:
    serving = Serving()
    _, outlet = serving.submit(SHARED, asking(temperature=1.0, seed=7, answers=3))
    serving.finish()
    texts = [said(outlet.of(answer)) for answer in range(3)]
    assert len({text for text, _, _ in texts}) == 3
    assert sum(tokens for tokens in serving.model.calls if tokens > 1) == len(SHARED)
    for answer in range(3):
        (event,) = outlet.of(answer)[:1]
        assert event == Begun(40, 40 if answer else 0)
        one = asking(temperature=1.0, seed=7 + answer)
        assert said(alone(SHARED, one).of()) == texts[answer]


def test_the_next_turn_reads_only_what_is_new() -> None:
    serving = Serving()
    first = serving.ask(SHARED, asking(6))
    assert ended(first).usage.cached_tokens == 0
    (held,) = [node for node in serving.scheduler.timelines._nodes() if node.end == 46]
    second = serving.ask([*held.tokens(), 5, 6, 7], asking(2))
    assert ended(second).usage.cached_tokens == 46
    assert_adds_up([*held.tokens(), 5, 6, 7], second)


# Cancelling


@pytest.mark.parametrize("steps", range(12))
def test_a_cancel_frees_the_thread_within_a_token_or_a_chunk(steps: int) -> None:
    serving = Serving(limits=ServingLimits(quantum_s=0.0))
    ticket, outlet = serving.submit(list(range(300, 390)), asking(100))
    for _ in range(steps):
        serving.scheduler.step()
    before = len(serving.model.calls)
    ticket.cancel()
    assert not serving.scheduler.step()
    assert ticket.has_ended and len(serving.model.calls) == before
    assert ended(outlet.of()).finish_reason == "cancelled"


def test_what_a_cancelled_request_read_is_not_read_again() -> None:
    serving = Serving()
    prompt = list(range(300, 390))
    ticket, _ = serving.submit(prompt)
    for _ in range(3):
        serving.scheduler.step()
    ticket.cancel()
    assert ended(serving.ask(prompt)).usage.cached_tokens == 48


def test_a_cancelled_read_in_a_quantum_of_many_chunks_ends_after_its_chunk() -> None:
    serving = Serving(limits=ServingLimits(quantum_s=1e9))
    serving.ask(list(range(200, 240)))  # so that it knows what a chunk takes
    ticket, _ = serving.submit(list(range(300, 800)))
    serving.model.calls.clear()

    def cancel(history: Any) -> int:
        ticket.cancel()
        return 5

    serving.model.next_token = cancel
    serving.scheduler.step()
    assert serving.model.calls == [16]
    assert not serving.scheduler.step() and ticket.has_ended


# Whose turn it is


def test_a_decoder_keeps_half_its_tokens_beside_a_long_read() -> None:
    serving = Serving(chunk=512)
    _, short = serving.submit([300, 301], asking(400))
    serving.scheduler.step()
    serving.submit([400] * 100_000, asking(0))
    serving.model.calls.clear()
    while not isinstance(short.of()[-1], Done):
        serving.scheduler.step()
    read = sum(0.01 * tokens for tokens in serving.model.calls if tokens > 1)
    drawn = sum(1.0 for tokens in serving.model.calls if tokens == 1)
    assert drawn >= 0.5 * (read + drawn) - 6


def test_a_short_question_is_answered_beside_a_long_read_in_three_times_its_time() -> None:
    question, request = list(range(300, 500)), asking(20)
    serving = Serving(chunk=512)
    serving.submit([400] * 100_000, asking(0))
    for _ in range(20):
        serving.scheduler.step()
    before = serving.scheduler._clock()
    ticket, _ = serving.submit(question, request)
    while not ticket.has_ended:
        serving.scheduler.step()
    took = serving.scheduler._clock() - before
    lonely = Serving(chunk=512)
    lonely.ask(question, request)
    assert took < 3 * lonely.scheduler._clock()


def test_a_long_read_goes_on_beside_a_stream_of_short_ones() -> None:
    serving = Serving()
    ticket, _ = serving.submit([400] * 640, asking(0))
    quanta = 0
    while not ticket.has_ended:
        if serving.scheduler.load.reading + serving.scheduler.load.waiting < 3:
            serving.submit([500 + quanta] * 16, asking(0))
        serving.scheduler.step()
        quanta += 1
        assert quanta < 5 * 640 // 16


def test_a_client_that_does_not_read_computes_nothing() -> None:
    serving = Serving()
    outlet = Stuck()
    ticket = serving.scheduler.submit(asking(), ServedPrompt(tuple(SHARED)), outlet)
    serving.scheduler.step()
    outlet.is_full = True
    assert not serving.scheduler.step()
    other = serving.ask([300, 301])
    assert ended(other).usage.completion_tokens == 8
    outlet.is_full = False
    serving.finish()
    assert said(outlet.of()) == said(alone(SHARED, asking()).of())
    assert ticket.has_ended


class Stuck(Collected):
    """An outlet that a test fills."""

    is_full = False


def test_drafts_run_while_one_request_answers_and_change_no_token() -> None:
    def again(history: Sequence[int]) -> int:
        return history[-6]

    def begun(**options: Any) -> Serving:
        model = FakeModel(again, vocab_size=tokenizer().vocab_size)
        return Serving(model=model, options=options)

    prompts = [[*range(first, first + 6)] * 5 for first in (300, 400)]
    drafting = {"drafts": Lookup(), "draft_demanded": True}
    alone_done = ended(begun(**drafting).ask(prompts[0], asking(40)))
    assert alone_done.draft is not None and alone_done.draft.accepted > 20
    serving = begun(**drafting)
    outlets = [serving.submit(prompt, asking(40))[1] for prompt in prompts]
    serving.finish()
    for prompt, outlet in zip(prompts, outlets, strict=True):
        assert said(outlet.of()) == said(begun().ask(prompt, asking(40)))
        done = ended(outlet.of())
        assert done.draft is not None and done.draft.accepted < 20


def test_the_thread_does_what_others_ask_it_between_steps() -> None:
    serving = Serving()
    serving.submit(SHARED)
    held = serving.scheduler.call(lambda: serving.scheduler.timelines.look([*SHARED, 5]).matched)
    failed = serving.scheduler.call(lambda: 1 // 0)
    serving.scheduler.step()
    assert held.result() == 0 and isinstance(failed.exception(), ZeroDivisionError)


def test_it_runs_on_a_thread_until_it_is_told_to_end() -> None:
    serving, until = Serving(), Event()
    thread = Thread(target=serving.scheduler.run, args=[until])
    thread.start()
    tickets = [serving.submit([300 + number, *SHARED]) for number in range(3)]
    while not all(ticket.has_ended for ticket, _ in tickets):
        serving.scheduler.call(lambda: None).result()
    until.set()
    serving.scheduler.wake()
    thread.join()
    for number, (_, outlet) in enumerate(tickets):
        assert said(outlet.of()) == said(alone([300 + number, *SHARED], asking()).of())


def test_what_is_handed_in_when_nobody_works_any_longer_ends_at_once() -> None:
    serving = Serving()
    _, before = serving.submit(SHARED)
    serving.scheduler.end_all()
    ticket, after = serving.submit(SHARED, asking(answers=2))
    assert ticket.has_ended
    ends = [ended(before.of()), ended(after.of(0)), ended(after.of(1))]
    assert [done.finish_reason for done in ends] == ["cancelled"] * 3


def test_what_is_asked_of_the_thread_when_nobody_works_any_longer_is_an_error() -> None:
    serving = Serving()
    before = serving.scheduler.call(lambda: 1)
    serving.scheduler.end_all()
    after = serving.scheduler.call(lambda: 1)
    assert before.result(0) == 1
    assert isinstance(after.exception(0), ServiceEnded)


def test_a_prompt_that_the_context_does_not_hold_is_refused_at_once() -> None:
    serving = Serving()
    with pytest.raises(PromptError, match="shorten it"):
        serving.submit([300] * (1 << 20))


# Failures


def test_a_failure_of_the_model_ends_one_request_and_no_other() -> None:
    serving = Serving()
    _, one = serving.submit(list(range(300, 390)))
    _, other = serving.submit([*SHARED], asking(12))
    serving.model.fail_at = 70
    serving.finish()
    assert isinstance(one.of()[-1], Refused) and "told to fail" in one.of()[-1].sentence
    assert said(other.of()) == said(alone(SHARED, asking(12)).of())
    again = serving.ask(list(range(300, 390)))
    assert said(again) == said(alone(list(range(300, 390)), asking()).of())
    assert ended(again).usage.cached_tokens == 64


def test_progress_counts_what_is_read() -> None:
    serving = Serving(limits=ServingLimits(quantum_s=0.0))
    serving.ask(SHARED[:20])
    events = serving.ask(SHARED)
    assert [event for event in events if isinstance(event, Progress)] == [
        Progress(13, 21), Progress(21, 21),
    ]  # fmt: skip


# Models whose weights are elsewhere


class Elsewhere(FakeModel):
    """A model that waits for its weights."""

    weights_elsewhere = True


def test_weights_elsewhere_serve_one_request_at_a_time_and_read_as_one() -> None:
    serving = Serving(model=Elsewhere(vocab_size=tokenizer().vocab_size))
    outlets = [serving.submit([300 + number, *SHARED], asking(5))[1] for number in range(3)]
    begun = []
    while serving.scheduler.step():
        begun.append(sum(bool(outlet.events) and not is_over(outlet) for outlet in outlets))
    assert max(begun) == 1
    for number, outlet in enumerate(outlets):
        prompt = [300 + number, *SHARED]
        assert said(outlet.of()) == said(alone(prompt, asking(5)).of())
        assert_adds_up(prompt, outlet.of())


def test_a_client_that_leaves_a_read_of_one_piece_ends_it_at_the_next_chunk() -> None:
    serving = Serving(model=Elsewhere(vocab_size=tokenizer().vocab_size))
    ticket, outlet = serving.submit(list(range(300, 390)))

    def cancel(history: Any) -> int:
        ticket.cancel()
        return 5

    serving.model.next_token = cancel
    serving.scheduler.step()
    assert serving.model.calls == [16]
    assert not serving.scheduler.step() and is_over(outlet)


def is_over(outlet: Collected) -> bool:
    return bool(outlet.events) and isinstance(outlet.of()[-1], Done | Refused)
