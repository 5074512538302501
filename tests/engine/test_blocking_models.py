"""Models whose step waits for weights: a token is given first, and read when the next is wanted."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import FakeModel
from tests.engine.sessions import PROMPT, engine, expected, ids

DRAWN: dict[str, Any] = {"temperature": 0.9, "seed": 5, "stop_ids": ()}


class Blocking(FakeModel):
    """A fake model whose weights are elsewhere."""

    weights_elsewhere = True


def synced(model: FakeModel | None = None) -> Session:
    session = engine(model or Blocking()).session()
    session.sync(PROMPT)
    return session


def drawn(session: Session, count: int, **options: Any) -> list[tuple[int, float]]:
    stream = session.stream(count, **{**DRAWN, **options})
    return [(token.id, token.logprob) for token in stream]


def test_a_token_is_given_before_the_step_after_it_begins() -> None:
    model = Blocking()
    session = synced(model)
    model.calls.clear()
    stream = session.stream(5, stop_ids=())
    first = next(stream)
    assert model.calls == []
    assert session.tokens == [*PROMPT, first.id]
    second = next(stream)
    assert model.calls == [1]
    assert [first.id, second.id] == expected(PROMPT, 2)


def test_the_last_token_is_read_as_a_step_before_the_next_prompt() -> None:
    model = Blocking()
    session = synced(model)
    model.calls.clear()
    reply = ids(session, 3)
    assert model.calls == [1, 1]
    read = session.sync([*PROMPT, *reply, 7, 8])
    assert model.calls == [1, 1, 1, 2]
    assert (read.reused, read.read) == (len(PROMPT) + 3, 2)
    assert ids(session, 2) == expected([*PROMPT, *reply, 7, 8], 2)


def script(session: Session, path: Path) -> list[Any]:
    """What every call gives, in the middle of replies and after them."""
    found: list[Any] = [drawn(session, 4), session.tokens]
    kept = session.snapshot()
    stream = session.stream(10, **DRAWN)
    found += [(token.id, token.logprob) for token, _ in zip(stream, range(3), strict=False)]
    session.hold()
    fork = session.fork()
    found += [next(stream).id, next(stream).id, len(session)]
    stream.close()
    found += [drawn(fork, 3), session.rewind(len(session)), drawn(session, 2)]
    session.save(path)
    other = session.fork()
    other.load(path)
    found += [drawn(other, 2), session.rewind(len(PROMPT) - 1)]
    session.restore(kept)
    found += [drawn(session, 2), drawn(session, 1, repetition_penalty=1.3), session.tokens]
    steps = iter([None, 77, None])
    found += [drawn(session, 3, steer=lambda: next(steps)), len(session)]
    return found


def test_every_call_gives_what_it_gives_where_steps_do_not_block(tmp_path: Path) -> None:
    ours = script(synced(), tmp_path / "ours")
    assert ours == script(synced(FakeModel()), tmp_path / "theirs")


@pytest.mark.parametrize(
    "use",
    [Session.snapshot, Session.fork, lambda session: session.rewind(len(session)), Session.hold],
    ids=["snapshot", "fork", "rewind", "hold"],
)
def test_what_goes_on_from_the_last_token_reads_it_once(use: Callable[[Session], Any]) -> None:
    model = Blocking()
    session = synced(model)
    ids(session, 2)
    model.calls.clear()
    use(session)
    use(session)
    assert model.calls == [1]


def test_sizes_and_places_read_nothing() -> None:
    model = Blocking()
    session = synced(model)
    ids(session, 2)
    model.calls.clear()
    assert session.sizes() and session.places and session.drafts_know is None
    assert model.calls == []


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_stream_that_ends_early_leaves_the_tokens_given(taken: int) -> None:
    session, flag = synced(), threading.Event()
    reply = []
    if not taken:
        flag.set()
    for token in session.stream(10, stop_ids=(), cancel=flag):
        reply.append(token.id)
        if len(reply) == taken:
            flag.set()
    assert session.tokens == [*PROMPT, *reply]
    assert reply + ids(session, 4) == expected(PROMPT, taken + 4)


def test_a_token_that_cannot_be_read_is_read_by_the_next_call() -> None:
    model = Blocking()
    session = synced(model)
    stream = session.stream(5, stop_ids=())
    first = next(stream).id
    model.fail_at = len(PROMPT)
    with pytest.raises(RuntimeError, match="told to fail"):
        next(stream)
    assert session.tokens == [*PROMPT, first]
    assert [first, *ids(session, 3)] == expected(PROMPT, 4)


def test_drafts_are_refused() -> None:
    session = synced()
    assert session._running.drafting.why_off("auto")
    with pytest.raises(UsageError, match="streamed"):
        session._running.drafting.use("lookup")
