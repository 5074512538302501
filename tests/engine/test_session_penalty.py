"""The repetition penalty counts the tokens of the timeline, however the timeline came about."""

import mlx.core as mx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.generation import make_penalty
from dsv4_mlx.engine.session import Session
from dsv4_mlx.scripted.fake import FakeModel, fake_engine

PROMPT = list(range(2, 20))


def synced(prompt: list[int] = PROMPT) -> Session:
    session = fake_engine().session()
    session.sync(prompt)
    return session


def ids(session: Session, count: int, penalty: float, **options: float) -> list[int]:
    stream = session.stream(count, stop_ids=(), repetition_penalty=penalty, **options)
    return [token.id for token in stream]


def expected(history: list[int], count: int, penalty: float) -> list[int]:
    """Greedy tokens after `history`, from the model and all of the tokens alone."""
    model, history = FakeModel(), list(history)
    for _ in range(count):
        logits = model.logits(history)
        seen = np.isin(np.arange(logits.size), history)
        scaled = np.where(logits < 0, logits * np.float32(penalty), logits / np.float32(penalty))
        history.append(int(np.argmax(np.where(seen, scaled, logits))))
    return history[len(history) - count :]


def test_the_fake_model_repeats_itself_unless_it_is_penalised() -> None:
    assert len(set(ids(synced(), 40, 1.0))) < 40
    assert len(set(ids(synced(), 40, 1e6))) > len(set(ids(synced(), 40, 1.0)))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0.25, 1.3, 4.0, 1e6]), st.data())
def test_going_back_and_forking_leave_no_trace_in_what_is_counted(
    penalty: float, data: st.DataObject
) -> None:
    sessions = [synced()]
    for _ in range(data.draw(st.integers(1, 5))):
        session = data.draw(st.sampled_from(sessions))
        match data.draw(st.sampled_from(["rewind", "fork", "restore", "edit", "go on"])):
            case "rewind":
                session.rewind(data.draw(st.integers(1, len(session))))
            case "fork":
                sessions.append(session.fork())
            case "restore":
                point = session.snapshot() if len(session) else None
                ids(session, 3, penalty) if len(session) else None
                session.restore(point) if point else None
            case "edit":
                session.sync([*session.tokens[: data.draw(st.integers(1, 18))], 7, 8])
            case "go on":
                pass
        if not len(session):
            session.sync(PROMPT)
        history = session.tokens
        assert ids(session, 4, penalty) == expected(history, 4, penalty)


def test_a_seed_repeats_with_a_penalty() -> None:
    def drawn(seed: int) -> list[int]:
        return ids(synced(), 12, 1.4, temperature=1.0, top_k=20, seed=seed)

    assert drawn(3) == drawn(3) != drawn(4)


def test_logprobs_stay_the_models_own() -> None:
    session = synced()
    logits = FakeModel().logits(PROMPT)
    token = next(session.stream(1, repetition_penalty=9.0))
    own = logits - np.logaddexp.reduce(logits.astype(np.float64))
    np.testing.assert_allclose(token.logprob, own[token.id], rtol=1e-5)


def test_a_token_that_was_steered_counts_too() -> None:
    session, steered = synced(), iter([33, None])
    stream = session.stream(2, stop_ids=(), repetition_penalty=1e6, steer=lambda: next(steered))
    assert [token.id for token in stream] == [33, *expected([*PROMPT, 33], 1, 1e6)]


def test_a_long_timeline_is_counted_once_for_each_token() -> None:
    penalty = make_penalty(2.0, [5] * 100_000)
    assert penalty is not None
    assert penalty(mx.array([8.0] * 10)).tolist() == [8.0] * 5 + [4.0] + [8.0] * 4
