"""What a session generates: its tokens, where they end, and how they are drawn."""

import threading

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import PromptError, UsageError
from dsv4_mlx.scripted.fake import FakeModel, scripted
from tests.engine.sessions import PROMPT, engine, expected, ids, synced


def test_logprobs_are_the_models_own() -> None:
    session = synced()
    tokens = list(session.stream(3, temperature=0.7, seed=1, stop_ids=()))
    history = list(PROMPT)
    for token in tokens:
        logits = FakeModel().logits(history).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum())
        assert token.logprob == pytest.approx(logprobs[token.id], abs=1e-5)
        history.append(token.id)


def test_a_stop_token_is_yielded_and_is_the_last() -> None:
    model = FakeModel(scripted([[10, 11, 12]], assistant_id=4, eos_id=1))
    session = engine(model).session()
    session.sync([0, 3, 9, 4, 5])
    tokens = list(session.stream())
    assert [token.id for token in tokens] == [10, 11, 12, 1]
    assert [token.finish for token in tokens] == [None, None, None, "stop"]
    assert session.tokens[-1] == 1


def test_stop_ids_take_the_place_of_eos() -> None:
    model = FakeModel(scripted([[10, 11, 12]], assistant_id=4, eos_id=1))
    session = engine(model).session()
    session.sync([0, 3, 9, 4, 5])
    assert [t.id for t in session.stream(stop_ids={11})] == [10, 11]
    assert [t.id for t in session.stream(3, stop_ids=())] == [12, 1, 1]


def test_the_limit_is_named() -> None:
    assert [t.finish for t in synced().stream(2, stop_ids=())] == [None, "length"]
    assert list(synced().stream(0)) == []


def test_the_context_is_a_limit() -> None:
    model = FakeModel(max_position_embeddings=43)
    session = engine(model).session()
    session.sync(PROMPT)
    tokens = list(session.stream(stop_ids=()))
    assert [token.finish for token in tokens] == [None, None, "length"]
    assert list(session.stream(stop_ids=())) == []


def test_streams_continue_one_another() -> None:
    session = synced()
    assert ids(session, 2) + ids(session, 3) == expected(PROMPT, 5)


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_closing_a_stream_keeps_exactly_the_tokens_yielded(taken: int) -> None:
    session = synced()
    stream = session.stream(10, stop_ids=())
    reply = [next(stream).id for _ in range(taken)]
    stream.close()
    assert session.tokens == PROMPT + reply
    assert reply + ids(session, 4) == expected(PROMPT, taken + 4)


def test_a_stream_ends_when_its_session_moves_on() -> None:
    session = synced()
    stream = session.stream(10, stop_ids=())
    next(stream)
    session.sync([5, 6, 7])
    with pytest.raises(UsageError, match="moved on"):
        next(stream)
    assert session.tokens == [5, 6, 7]


def test_a_seed_repeats_and_another_differs() -> None:
    def draw(seed: int) -> list[int]:
        return ids(synced(), 20, temperature=1.0, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_sampling_leaves_the_global_random_state_alone() -> None:
    mx.random.seed(7)
    before = mx.random.uniform(shape=(3,)).tolist()
    mx.random.seed(7)
    ids(synced(), 5, temperature=1.0, seed=3)
    assert mx.random.uniform(shape=(3,)).tolist() == before


def test_steering_takes_the_place_of_a_draw() -> None:
    session = synced()
    orders = iter([None, 77, None, None])
    reply = ids(session, 4, temperature=1.0, seed=3, steer=lambda: next(orders))
    assert reply[1] == 77
    assert session.tokens == PROMPT + reply
    assert ids(session, 2) == expected(PROMPT + reply, 2)


def test_a_sampler_of_ones_own() -> None:
    assert ids(synced(), 3, sampler=lambda logprobs: mx.argmin(logprobs)) != expected(PROMPT, 3)


def test_cancel_ends_a_stream_within_a_token() -> None:
    session, flag = synced(), threading.Event()
    reply = []
    for token in session.stream(10, stop_ids=(), cancel=flag):
        reply.append(token.id)
        if len(reply) == 3:
            flag.set()
    assert len(reply) == 3
    assert session.tokens == PROMPT + reply
    assert reply + ids(session, 2) == expected(PROMPT, 5)


def test_streaming_without_a_prompt() -> None:
    with pytest.raises(PromptError, match="no prompt"):
        engine().session().stream()


def test_limits_out_of_range() -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        synced().stream(-1)
    with pytest.raises(UsageError, match="prefill_chunk"):
        engine(prefill_chunk=0)
