"""A model that fails: the session keeps the state it had, and what follows is what would have."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.engine.session import Session
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.engine.test_session_model import NEXT, PROMPT, SMALL, ids, load_small

LONG = [3 + i % 90 for i in range(100)]


def expected(tokens: list[int], count: int) -> list[int]:
    """What the fake model says after `tokens`, without a session."""
    model, said = FakeModel(), list(tokens)
    for _ in range(count):
        said.append(int(model.logits(said).argmax()))
    return said[len(tokens) :]


@settings(max_examples=40, deadline=None)
@given(
    fail_at=st.integers(1, 119),
    chunk=st.sampled_from([1, 7, 16, 64, 512]),
    budget=st.sampled_from([0, 1500, 1 << 20]),
    turn=st.sampled_from([0, 30, 90]),
)
def test_a_failure_costs_no_more_than_what_was_under_way(fail_at, chunk, budget, turn) -> None:
    """While reading, the chunk; while generating, the tokens since the prompt."""
    model = FakeModel()
    session = fake_engine(model, prefill_chunk=chunk, snapshot_bytes=budget).session()
    model.fail_at = fail_at
    said: list[int] = []
    with pytest.raises(RuntimeError):
        session.sync(LONG, places=[turn])
        said += [token.id for token in session.stream(20, stop_ids=())]
        raise RuntimeError("it said all of it")
    model.fail_at = None
    before = sum(model.calls)
    read = session.sync(LONG)
    if fail_at < len(LONG):
        assert read.reused >= fail_at - chunk
        assert read.read <= len(LONG) - fail_at + chunk
    elif budget:
        assert read.read <= 1
    assert sum(model.calls) - before == read.read
    assert ids(session, 5) == expected(LONG, 5)


def test_a_prompt_that_was_asked_before_a_failure_is_not_taken_for_another() -> None:
    model = FakeModel()
    session = fake_engine(model, prefill_chunk=16).session()
    session.sync(LONG[:50])
    model.fail_at = 52
    with pytest.raises(RuntimeError):
        ids(session, 9)
    model.fail_at = None
    other, stop = [*LONG[:49], *range(60, 99)], Event()
    assert session.sync(other, lambda done, _: done and stop.set(), stop).cancelled
    assert len(session) > 50
    session.sync(other[:50])
    assert ids(session, 5) == expected(other[:50], 5)


def test_a_failure_of_the_second_turn_keeps_the_first() -> None:
    model = FakeModel()
    session = fake_engine(model, prefill_chunk=16).session()
    session.sync(LONG)
    first = LONG + ids(session, 30)
    second = [*first, 5, 6, 7]
    session.sync(second)
    model.fail_at = len(second) + 3
    with pytest.raises(RuntimeError):
        ids(session, 10)
    read = session.sync([*first, 8, 9])
    assert (read.reused, read.read) == (len(first), 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_small(write_tiny_checkpoint(tmp_path_factory.mktemp("small"), SMALL))


@pytest.fixture(scope="module")
def reply(model: Model) -> list[int]:
    session = Engine(model).session()
    session.sync(PROMPT)
    return ids(session)


@pytest.fixture(params=["a layer", "the evaluation", "the last evaluation", "an interrupt"])
def failing(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, model: Model
) -> Iterator[list[int]]:
    """A list; put a number in it, and the call of that number from then on fails, once."""
    waits: list[int] = []

    def counted(call, error, late=False):
        def run(*args, **kwargs):
            result = call(*args, **kwargs) if late else None
            if waits:
                waits[0] -= 1
                if waits[0] < 0:
                    waits.clear()
                    raise error
            return result if late else call(*args, **kwargs)

        return run

    error: BaseException = RuntimeError("told to fail")
    if request.param == "an interrupt":
        error = KeyboardInterrupt()
    if request.param in ("a layer", "an interrupt"):
        kind = type(model.layers[-1])
        monkeypatch.setattr(kind, "__call__", counted(kind.__call__, error))
    else:
        late = request.param == "the last evaluation"
        monkeypatch.setattr(mx, "async_eval", counted(mx.async_eval, error, late))
        monkeypatch.setattr(mx, "eval", counted(mx.eval, error, late))
    yield waits


@pytest.mark.parametrize(
    "call", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5)), 11]
)
def test_a_real_model_goes_on_as_if_nothing_had_failed(
    model: Model, reply: list[int], failing: list[int], call: int
) -> None:
    """Wherever it fails, whatever of the state was replaced already."""
    session = Engine(model, prefill_chunk=40).session()
    failing.append(call)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        session.sync(PROMPT)
        for _ in session.stream(20, stop_ids=()):
            pass
        raise RuntimeError("it said all of it")
    failing.clear()
    session.sync(PROMPT)
    assert ids(session) == reply
    assert session.tokens == PROMPT + reply[:NEXT]


def test_a_fork_is_not_touched_by_a_failure(
    model: Model, reply: list[int], failing: list[int]
) -> None:
    session = Engine(model, prefill_chunk=40).session()
    session.sync(PROMPT)
    other = session.fork()
    failing.append(1)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        session.sync([*PROMPT, *range(50)])
    failing.clear()
    assert ids(other) == reply
    session.sync(PROMPT)
    assert ids(session) == reply


def test_without_any_place_all_is_read_again(tmp_path: Path) -> None:
    broken = FakeModel()
    session: Session = fake_engine(broken).session()
    broken.fail_at = 0
    with pytest.raises(RuntimeError):
        session.sync(LONG)
    assert session.sync(LONG).reused == 0
    assert ids(session, 3) == expected(LONG, 3)
