"""A client that does not read what it asked for: it costs itself, and others nothing."""

from collections.abc import Sequence
from typing import Any

import pytest

from dsv4_mlx.chat.events import TextDelta
from dsv4_mlx.engine.drafters import Lookup
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.serving.events import Collected
from dsv4_mlx.serving.job import ServedPrompt
from dsv4_mlx.serving.limits import ServingLimits
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.ticket import Ticket
from tests.serving.served import Serving, alone, asking, ended, said, tokenizer

PROMPT = list(range(300, 340))


class Stuck(Collected):
    """An outlet that a test fills."""

    is_full = False


def stuck(
    serving: Serving, request: GenerationRequest, prompt: Sequence[int] = PROMPT
) -> tuple[Ticket, Stuck]:
    """A request whose client has stopped reading in the middle of its answer."""
    outlet = Stuck()
    ticket = serving.scheduler.submit(request, ServedPrompt(tuple(prompt)), outlet)
    while not any(isinstance(event, TextDelta) for event in outlet.of()):
        serving.scheduler.step()
    outlet.is_full = True
    serving.finish()
    assert not ticket.has_ended
    return ticket, outlet


@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_answer_that_nobody_reads_ends_where_others_wait_for_its_place(
    is_streamed: bool,
) -> None:
    limits = ServingLimits() if is_streamed else ServingLimits(most_running=1)
    serving = Serving(limits=limits)
    serving.model.weights_elsewhere = is_streamed  # type: ignore[attr-defined]
    ticket, outlet = stuck(serving, asking(40))
    other = serving.ask([300, 301], asking(8))
    assert ticket.has_ended and outlet.is_full
    assert said(other) == said(alone([300, 301], asking(8)).of())
    assert said(outlet.of()) == said(alone(PROMPT, asking(40)).of())


def test_an_answer_that_nobody_reads_takes_no_drafts_from_others() -> None:
    def again(history: Sequence[int]) -> int:
        return history[-6]

    model = FakeModel(again, vocab_size=tokenizer().vocab_size)
    options: dict[str, Any] = {"drafts": Lookup(), "draft_demanded": True}
    serving = Serving(model=model, options=options)
    prompts = [[*range(first, first + 6)] * 5 for first in (300, 400)]
    ticket, outlet = stuck(serving, asking(40), prompts[0])
    done = ended(serving.ask(prompts[1], asking(40)))
    assert done.draft is not None and done.draft.accepted > 20
    outlet.is_full = False
    serving.finish()
    assert ticket.has_ended
    plain = Serving(model=FakeModel(again, vocab_size=tokenizer().vocab_size))
    assert said(outlet.of()) == said(plain.ask(prompts[0], asking(40)))
