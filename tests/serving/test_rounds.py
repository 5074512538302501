"""Answers that share a call of the model: what each says is what it says alone."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.engine.drafters import Lookup
from dsv4_mlx.scripted.fake import FakeCache, FakeModel
from dsv4_mlx.serving.events import Refused
from tests.serving.served import Serving, alone, asking, likelihoods, said, tokenizer

PROMPTS = [[300 + number, *range(400, 400 + 7 * number)] for number in range(5)]


def submitted(serving: Serving, requests: Sequence[Any]) -> list[Any]:
    """What was handed in, once all of it is read and has its first token."""
    given = [serving.submit(prompt, one) for prompt, one in zip(PROMPTS, requests, strict=False)]
    while any(job.state in ("waiting", "reading") for ticket, _ in given for job in ticket.jobs):
        serving.scheduler.step()
    serving.scheduler.step()
    return given


@pytest.mark.parametrize(
    ("rows", "calls"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (8, [5])]
)
def test_a_round_is_as_few_calls_as_its_rows_allow(rows: int, calls: list[int]) -> None:
    serving = Serving(round_rows=rows)
    requests = [asking(200, temperature=float(n % 2), seed=n, likeliest=2) for n in range(5)]
    given = submitted(serving, requests)
    for _ in range(3):
        serving.model.calls.clear()
        serving.scheduler.step()
        assert serving.model.calls == calls
    serving.finish()
    for prompt, request, (_, outlet) in zip(PROMPTS, requests, given, strict=True):
        expected = alone(prompt, request).of()
        assert said(outlet.of()) == said(expected)
        assert likelihoods(outlet.of()) == likelihoods(expected)


def test_whoever_was_cancelled_takes_no_part() -> None:
    serving = Serving(round_rows=4)
    given = submitted(serving, [asking(200)] * 4)
    given[2][0].cancel()
    serving.model.calls.clear()
    serving.scheduler.step()
    assert serving.model.calls == [3]
    serving.finish()
    for number in (0, 1, 3):
        assert said(given[number][1].of()) == said(alone(PROMPTS[number], asking(200)).of())
    text = said(given[2][1].of())[0].rstrip("�")
    assert said(alone(PROMPTS[2], asking(200)).of())[0].startswith(text)


class Ill(FakeModel):
    """Fails with one text, whenever it is longer than 25 tokens."""

    def __call__(self, tokens: mx.array, cache: list[FakeCache]) -> mx.array:
        for state in cache:
            if state.history[:1] == [302] and state.offset >= 25:
                raise RuntimeError("this text makes the model fail")
        return super().__call__(tokens, cache)


def test_an_error_ends_its_request_alone() -> None:
    serving = Serving(model=Ill(vocab_size=tokenizer().vocab_size), round_rows=8)
    given = submitted(serving, [asking(30, temperature=1.0, seed=4)] * 5)
    serving.finish()
    for number, (ticket, outlet) in enumerate(given):
        last = outlet.of()[-1]
        assert ticket.has_ended and isinstance(last, Refused) == (number == 2)
        if number == 2:
            assert last.sentence == "The model failed: this text makes the model fail"
        else:
            expected = alone(PROMPTS[number], asking(30, temperature=1.0, seed=4))
            assert said(outlet.of()) == said(expected.of())
    assert max(serving.model.calls[-20:]) == 4


def test_answers_of_a_round_that_the_device_refuses_go_on_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And those that begin later have rounds of their own."""
    serving, own = Serving(round_rows=8), mx.async_eval
    requests = [asking(30, temperature=1.0, seed=n) for n in range(5)]
    given = submitted(serving, requests[:3])

    def refuse(*arrays: Any) -> None:
        if len(arrays) > 1:
            monkeypatch.setattr(mx, "async_eval", own)
            raise RuntimeError("out of memory")
        own(*arrays)

    monkeypatch.setattr(mx, "async_eval", refuse)
    serving.model.calls.clear()
    serving.scheduler.step()
    # Of each the last token of the prompt and the three, two and one that were said.
    assert serving.model.calls == [3, 4, 1, 3, 1, 2, 1]
    given += [serving.submit(*one) for one in zip(PROMPTS[3:], requests[3:], strict=True)]
    serving.finish()
    assert 2 in serving.model.calls[7:] and 3 not in serving.model.calls[7:]
    for prompt, request, (_, outlet) in zip(PROMPTS, requests, given, strict=True):
        assert said(outlet.of()) == said(alone(prompt, request).of())


@pytest.mark.parametrize("lengths", [(40, 9), (14, 30)], ids=str)
def test_drafts_run_while_one_answers_and_change_no_token_of_a_round(
    lengths: tuple[int, int],
) -> None:
    """The first answer has a block of drafts open when the second begins; either ends first, and
    where that is the first the second has its token of that round yet to take."""
    text = [5, 6, 7, 8] * 30
    model = FakeModel(lambda history: text[len(history) % 4], vocab_size=tokenizer().vocab_size)
    options: dict[str, Any] = {"drafts": Lookup(), "draft_demanded": True}
    asked = [
        (prompt, asking(length, temperature=1.0, seed=3))
        for prompt, length in zip((PROMPTS[4], PROMPTS[1]), lengths, strict=True)
    ]
    expected = [said(Serving(model=model).ask(*one)) for one in asked]
    for steps in range(2, 9):
        serving = Serving(model=model, options=options, round_rows=4)
        outlets = [serving.submit(*asked[0])[1]]
        for _ in range(steps):
            serving.scheduler.step()
        model.calls.clear()
        outlets.append(serving.submit(*asked[1])[1])
        serving.finish()
        assert 2 in model.calls
        assert [said(outlet.of()) for outlet in outlets] == expected
