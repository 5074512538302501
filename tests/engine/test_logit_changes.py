"""What is added to logits, and the likeliest tokens, against NumPy in float64."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.draws import likeliest_of
from dsv4_mlx.engine.generation import Token, make_sampler
from dsv4_mlx.engine.logit_changes import make_changes
from dsv4_mlx.engine.sampling import NO_SHIFTS, Shifts
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import FakeModel, fake_engine

PROMPT = [2, 3, 5, 7, 7]
VOCAB = 40
PENALTIES = st.floats(-2, 2)
SHIFTS = st.builds(
    Shifts,
    PENALTIES,
    PENALTIES,
    st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), max_size=4).map(
        lambda biases: tuple(biases.items())
    ),
)


class Level(FakeModel):
    """No token is likelier than another."""

    def logits(self, history: Sequence[int]) -> np.ndarray:
        return np.zeros(self.config.vocab_size, np.float32)


def synced(prompt: list[int] = PROMPT, model: FakeModel | None = None) -> Session:
    session = fake_engine(model or FakeModel(vocab_size=VOCAB)).session()
    session.sync(prompt)
    return session


def said(session: Session, count: int, shifts: Shifts, **options: Any) -> list[Token]:
    return list(session.stream(count, stop_ids=(), shifts=shifts, **options))


def changed_ref(
    logits: np.ndarray, shifts: Shifts, reply: list[int], penalty: float, timeline: list[int]
) -> np.ndarray:
    """[V] float64: transformers' penalty on the timeline, then what OpenAI documents."""
    changed = logits.astype(np.float64)
    for token in {*timeline, *reply}:
        changed[token] *= penalty if changed[token] < 0 else 1 / penalty
    for token in range(changed.size):
        count = reply.count(token)
        changed[token] -= shifts.presence_penalty * (count > 0) + shifts.frequency_penalty * count
    for token, bias in shifts.logit_bias:
        changed[token] += bias
    return changed


@settings(max_examples=60, deadline=None)
@given(SHIFTS, st.sampled_from([1.0, 1.3]), st.lists(st.integers(0, VOCAB - 1), max_size=6))
def test_logits_are_changed_as_documented_in_their_order(
    shifts: Shifts, penalty: float, reply: list[int]
) -> None:
    logits = np.random.default_rng(len(reply)).normal(0, 4, VOCAB).astype(np.float32)
    changes = make_changes(penalty, shifts, PROMPT, VOCAB)
    if changes is None:
        assert penalty == 1 and shifts in (NO_SHIFTS, Shifts())
        return
    seen: list[np.ndarray] = []

    def draw(logprobs: mx.array) -> mx.array:
        seen.append(np.array(logprobs, dtype=np.float64))
        return mx.array(following)

    for place in range(len(reply) + 1):
        following = [*reply, 0][place]
        changes.draw(mx.array(logits), draw)
        expected = changed_ref(logits, shifts, reply[:place], penalty, PROMPT)
        expected -= np.logaddexp.reduce(expected)
        np.testing.assert_allclose(seen[-1], expected, rtol=1e-5, atol=1e-4)


def greedy_ref(count: int, shifts: Shifts, penalty: float = 1.0) -> list[int]:
    model, reply = FakeModel(vocab_size=VOCAB), list[int]()
    for _ in range(count):
        logits = model.logits([*PROMPT, *reply])
        reply.append(int(np.argmax(changed_ref(logits, shifts, reply, penalty, PROMPT))))
    return reply


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize(
    "shifts",
    [
        Shifts(presence_penalty=2.0),
        Shifts(frequency_penalty=1.5),
        Shifts(-2.0, -2.0),
        Shifts(1.0, 0.5, ((7, 3.0), (11, 2.5), (4, -100.0))),
        Shifts(logit_bias=((7, 100.0),)),
    ],
)
def test_a_reply_is_the_one_of_the_changed_logits(shifts: Shifts, penalty: float) -> None:
    found = said(synced(), 20, shifts, repetition_penalty=penalty)
    assert [token.id for token in found] == greedy_ref(20, shifts, penalty)


def test_the_tokens_of_the_prompt_and_of_another_reply_are_not_counted() -> None:
    shifts = Shifts(1.5, 0.5, ((9, 3.0), (8, 2.0), (7, 0.75)))
    session = synced([*PROMPT, *[9] * 8], Level(vocab_size=VOCAB))
    for _ in range(2):
        assert [token.id for token in said(session, 4, shifts)] == [9, 8, 9, 7]


def test_a_token_that_is_decided_counts_and_needs_no_bias() -> None:
    decided = iter([9, 4, 9, None])
    shifts = Shifts(0.0, 2.0, ((9, 3.0), (8, 0.5), (4, -100.0)))
    session = synced(PROMPT, Level(vocab_size=VOCAB))
    found = said(session, 4, shifts, steer=lambda: next(decided))
    assert [token.id for token in found] == [9, 4, 9, 8]


def test_a_seed_repeats_and_log_probabilities_stay_the_models_own() -> None:
    shifts, options = Shifts(1.0, 0.5, ((7, 3.0),)), {"temperature": 1.0, "top_k": 20}
    first, again, other = (said(synced(), 12, shifts, **options, seed=n) for n in (3, 3, 4))
    assert first == again != other
    history = list(PROMPT)
    for token in first:
        logits = FakeModel(vocab_size=VOCAB).logits(history).astype(np.float64)
        own = logits - np.logaddexp.reduce(logits)
        np.testing.assert_allclose(token.logprob, own[token.id], rtol=1e-5)
        history.append(token.id)


def test_without_shifts_nothing_is_changed() -> None:
    assert make_changes(1.0, NO_SHIFTS, PROMPT, VOCAB) is None
    assert said(synced(), 12, NO_SHIFTS) == list(synced().stream(12, stop_ids=()))


@pytest.mark.parametrize("count", [1, 3, 20, VOCAB, VOCAB + 1])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_likeliest_are_the_models_own_in_their_order(count: int, temperature: float) -> None:
    options = {"temperature": temperature, "seed": 1, "repetition_penalty": 1.5}
    found = said(synced(), 8, Shifts(1.0), likeliest=count, **options)
    history = list(PROMPT)
    for token in found:
        logits = FakeModel(vocab_size=VOCAB).logits(history).astype(np.float64)
        own = logits - np.logaddexp.reduce(logits)
        order = np.lexsort((np.arange(VOCAB), -own))[:count]
        assert [one for one, _ in token.likeliest] == order.tolist()
        np.testing.assert_allclose([p for _, p in token.likeliest], own[order], rtol=1e-5)
        assert dict(token.likeliest).get(token.id, token.logprob) == token.logprob
        history.append(token.id)
    assert found == said(synced(), 8, Shifts(1.0), likeliest=count, **options)
    assert [token.id for token in found] == [
        token.id for token in said(synced(), 8, Shifts(1.0), **options)
    ]


@given(st.lists(st.integers(-3, 0), min_size=1, max_size=30), st.integers(0, 31))
def test_among_equals_the_lowest_id_is_first(values: list[int], count: int) -> None:
    row = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda token: (-values[token], token))[:count]
    found = likeliest_of(row, count)
    assert found == tuple((token, float(values[token])) for token in expected)
    if found:
        assert found[0][0] == make_sampler()(mx.array(row)).item()


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ({"presence_penalty": 2.5}, r"^presence_penalty must be a number from -2 to 2, got 2.5\.$"),
        ({"frequency_penalty": float("nan")}, r"^frequency_penalty must be a number from -2 to 2"),
        (
            {"logit_bias": ((5, 101.0),)},
            r"^logit_bias of token 5 must be a number from -100 t",
        ),
        ({"logit_bias": ((-1, 1.0),)}, r"^A token id of logit_bias must be a whole number from 0"),
    ],
)
def test_what_is_out_of_range_is_a_sentence(given_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Shifts(**given_)


def test_a_bias_of_a_token_that_there_is_not_is_a_sentence() -> None:
    with pytest.raises(UsageError, match=r"^logit_bias takes token ids from 0 to 39, got 40\.$"):
        said(synced(), 1, Shifts(logit_bias=((VOCAB, 1.0),)))
