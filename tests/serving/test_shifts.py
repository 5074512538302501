"""Penalties, biases and the likeliest tokens of requests: among others, and under a grammar."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.drafters import Lookup
from dsv4_mlx.engine.generation import make_sampler
from dsv4_mlx.engine.logit_changes import make_changes
from dsv4_mlx.engine.sampling import Shifts
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from dsv4_mlx.serving.constraint import AnswerConstraint, SymbolState, TokenSymbols
from dsv4_mlx.serving.events import Collected
from dsv4_mlx.serving.json_grammar import object_grammar
from dsv4_mlx.serving.request import GenerationRequest
from dsv4_mlx.serving.service import Service
from tests.serving.served import Serving, alone, asking, likelihoods, said, tokenizer

SHARED = list(range(300, 340))


class Level(FakeModel):
    """No token is likelier than another."""

    def logits(self, history: Sequence[int]) -> np.ndarray:
        return np.zeros(self.config.vocab_size, np.float32)


def test_answers_of_one_request_count_their_own_tokens_alone() -> None:
    shifts = Shifts(2.0, 0.0, ((700, 3.0), (701, 2.5), (702, 2.0)))
    serving = Serving(model=Level(vocab_size=tokenizer().vocab_size))
    request = asking(4, shifts=shifts, likeliest=1, answers=3)
    for prompt in ([*SHARED, 700, 701], [*SHARED, 700]):
        _, outlet = serving.submit(prompt, request)
        serving.finish()
        for answer in range(3):
            tokens = [one.token for one in likelihoods(outlet.of(answer))]
            assert tokens == [700, 701, 702, 700]


def test_others_beside_it_and_drafts_change_no_token_of_a_penalised_answer() -> None:
    shifts = Shifts(1.0, 0.5, ((700, 4.0), (1, -100.0)))
    requests = [
        asking(24, 1.0, seed=3, shifts=shifts, likeliest=2, answers=2),
        asking(24, 1.0, seed=3, likeliest=2),
        asking(24, shifts=shifts, likeliest=2),
    ]
    model = FakeModel(vocab_size=tokenizer().vocab_size)
    serving = Serving(model=model, options={"drafts": Lookup(), "draft_demanded": True})
    outlets = [serving.submit(SHARED, request)[1] for request in requests]
    serving.finish()
    _, last = serving.submit(SHARED, requests[0])  # with the model, and its drafts, for itself
    serving.finish()
    for request, outlet in zip([*requests, requests[0]], [*outlets, last], strict=True):
        for answer in range(request.answers):
            expected = alone(SHARED, request).of(answer)
            assert said(outlet.of(answer)) == said(expected)
            assert likelihoods(outlet.of(answer)) == likelihoods(expected)


def test_a_request_with_shifts_of_nothing_is_drawn_as_one_without() -> None:
    assert make_changes(1.0, Shifts(), SHARED, 1 << 20) is None
    plain, off = asking(12, 1.0, seed=2), asking(12, 1.0, seed=2, shifts=Shifts())
    assert alone(SHARED, plain).events == alone(SHARED, off).events


def test_a_bias_of_a_token_that_the_model_does_not_have_is_refused_at_once() -> None:
    size = tokenizer().vocab_size
    service = Service(fake_engine(FakeModel(vocab_size=size)), tokenizer(), "2026-07-31")
    messages: Any = [{"role": "user", "content": "Hi"}]
    request = GenerationRequest(messages, shifts=Shifts(logit_bias=((size, 1.0),)))
    with pytest.raises(UsageError, match=rf"^logit_bias takes token ids from 0 to {size - 1}, got"):
        service.serve(request, Collected())


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_bias_on_what_a_grammar_forbids_leaves_the_shares_of_what_it_allows(top_p: float) -> None:
    """A JSON object begins with a brace or white space, however likely everything else is."""
    symbols = TokenSymbols(tokenizer())
    held = AnswerConstraint(tokenizer(), SymbolState(symbols, object_grammar()), thinks=False)
    right = [token for token in range(tokenizer().vocab_size) if held.allows(token)]
    wrong = [token for token in range(tokenizer().vocab_size) if not held.allows(token)]
    shifts = Shifts(logit_bias=tuple((token, 100.0) for token in wrong[:12]))
    changes = make_changes(1.0, shifts, (), tokenizer().vocab_size)
    assert changes is not None and len(right) > 1
    draw = held.sampler(make_sampler(1.0, top_p, seed=3))
    scores = np.full(tokenizer().vocab_size, 20.0, np.float32)
    scores[right] = np.arange(len(right)) / len(right)
    logits = mx.array(scores)
    drawn = Counter(int(changes.draw(logits, draw).item()) for _ in range(60))
    assert set(drawn) <= set(right)
    assert len(drawn) > 1
