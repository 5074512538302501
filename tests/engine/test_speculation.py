"""A reply with drafts is the reply without them: tokens, log-probabilities, finish, state.

On a model without weights, whose logits depend on the whole history: a row that was read too much
or forgotten would change every token after it.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.engine.drafters import Lookup
from dsv4_mlx.engine.generation import Token, greedy
from dsv4_mlx.engine.sampling import Shifts
from dsv4_mlx.engine.session import Session
from dsv4_mlx.errors import UsageError
from dsv4_mlx.scripted.fake import FakeModel, fake_engine
from tests.engine.drafting import KINDS, ScriptedDrafts, from_text
from tests.engine.sessions import PROMPT, SetAfter

VOCAB, EOS, LENGTH = 300, 1, 24
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "0.7": {"temperature": 0.7},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "min-p": {"temperature": 1.0, "min_p": 0.2},
    "top-k": {"temperature": 0.7, "top_k": 5},
    "penalty": {"temperature": 0.7, "repetition_penalty": 1.3},
    "shifts": {"temperature": 0.7, "shifts": Shifts(1.5, 0.5, ((7, 3.0), (9, -100.0)))},
    "likeliest": {"temperature": 0.7, "likeliest": 3},
}


@pytest.fixture(autouse=True, params=[1, 8], ids=["row by row", "at once"])
def exact_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows that a call of the model reads exactly: a block is read by as many calls, or by one."""
    rows: int = request.param
    monkeypatch.setattr(FakeModel, "exact_rows", rows)
    return rows


def model() -> FakeModel:
    """Logits of standard deviation 1, so that draws differ from the likeliest tokens."""
    return FakeModel(vocab_size=VOCAB, max_position_embeddings=256)


def plain(prompt: list[int] = PROMPT) -> Session:
    session = fake_engine(model()).session()
    session.sync(prompt)
    return session


def drafting(drafts: Any, prompt: list[int] = PROMPT, most: int = 5) -> Session:
    engine = fake_engine(model(), drafts=drafts, draft_most=most, draft_demanded=True)
    session = engine.session()
    session.sync(prompt)
    return session


def said(session: Session, count: int | None = LENGTH, **options: Any) -> list[Token]:
    return list(session.stream(count, **options))


def state(session: Session) -> tuple[list[int], list[int], list[float]]:
    """Tokens, what the model consumed, and the logits after it."""
    snapshot = session.snapshot()
    history = list(snapshot.state.history)  # type: ignore[attr-defined]
    return session.tokens, history, np.array(snapshot.logits).tolist()


def kind_of(kind: str, **options: Any) -> ScriptedDrafts:
    text = [*PROMPT, *(token.id for token in said(plain(), LENGTH + 8, **options))]
    return ScriptedDrafts(KINDS[kind](text, VOCAB, EOS))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_is_the_one_without_drafts(kind: str, sampling: str) -> None:
    for seed in (0, 3):
        options = {**SAMPLINGS[sampling], "seed": seed}
        expected, session = plain(), drafting(kind_of(kind, stop_ids=(), **options))
        assert said(session, **options) == said(expected, **options)
        assert state(session) == state(expected)


@pytest.mark.parametrize("most", [1, 2, 5, 7])
@pytest.mark.parametrize("max_tokens", range(1, 10))
def test_a_reply_ends_where_its_limit_is(max_tokens: int, most: int) -> None:
    expected, session = plain(), drafting(kind_of("right", stop_ids=()), most=most)
    assert said(session, max_tokens, stop_ids=()) == said(expected, max_tokens, stop_ids=())
    assert state(session) == state(expected)


@pytest.mark.parametrize("kind", ["right", "right then wrong"])
@pytest.mark.parametrize("after", range(9))
def test_a_reply_that_is_cancelled_holds_what_was_yielded(kind: str, after: int) -> None:
    options: dict[str, Any] = {"temperature": 0.7, "seed": 1, "stop_ids": ()}
    expected, session = plain(), drafting(kind_of(kind, **options))
    reply = said(session, cancel=SetAfter(after), **options)
    assert reply == said(expected, cancel=SetAfter(after), **options)
    assert len(reply) == after
    assert state(session) == state(expected)
    assert said(session, 6, **options) == said(expected, 6, **options)  # goes on


@pytest.mark.parametrize("after", range(1, 9))
def test_a_reply_that_is_closed_holds_what_was_yielded(after: int) -> None:
    expected, session = plain(), drafting(kind_of("right", stop_ids=()))
    for one in (expected, session):
        stream = one.stream(LENGTH, stop_ids=())
        for _ in range(after):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert state(session) == state(expected)


@pytest.mark.parametrize("after", range(1, 9))
def test_what_is_asked_of_a_session_inside_a_block_is_of_the_tokens_yielded(after: int) -> None:
    expected, session = plain(), drafting(kind_of("right", stop_ids=()))
    replies, found = [], []
    for one in (expected, session):
        stream, reply = one.stream(LENGTH, stop_ids=()), []
        for token in stream:
            reply.append(token)
            if len(reply) == after:
                one.hold()
                found.append((state(one), state(one.fork())))
        replies.append(reply)
    assert replies[0] == replies[1]
    assert found[0] == found[1]
    assert state(session) == state(expected)


def test_a_stop_token_inside_a_block_ends_the_reply() -> None:
    text = [token.id for token in said(plain(), stop_ids=())]
    for place in range(8):
        stops = {text[place]}
        expected, session = plain(), drafting(kind_of("right", stop_ids=()))
        assert said(session, stop_ids=stops) == said(expected, stop_ids=stops)
        assert state(session) == state(expected)


def test_the_end_of_the_context_ends_a_reply() -> None:
    prompt = [7] * 250
    expected = plain(prompt)
    text = [*prompt, *(token.id for token in said(plain(prompt), None, stop_ids=()))]
    session = drafting(ScriptedDrafts(from_text(text)), prompt)
    assert said(session, None, stop_ids=()) == said(expected, None, stop_ids=())
    assert len(session) == 256
    assert state(session) == state(expected)


@pytest.mark.parametrize("kind", ["right", "right then wrong"])
@pytest.mark.parametrize("sampling", ["greedy", "0.7", "penalty"])
def test_tokens_that_are_steered_take_the_place_of_draws(kind: str, sampling: str) -> None:
    """A forced token uses no key, and the draws after it are those of plain decoding."""
    options = {**SAMPLINGS[sampling], "seed": 2, "stop_ids": ()}

    def steer() -> Iterator[int | None]:
        for number in range(LENGTH):
            yield 9 if number % 5 == 3 else None

    expected = plain()
    decided = steer()
    reply = said(expected, steer=lambda: next(decided), **options)
    text = [*PROMPT, *(token.id for token in reply)]
    guess = KINDS[kind](text, VOCAB, EOS)
    session, decided_again = drafting(ScriptedDrafts(guess)), steer()
    assert said(session, steer=lambda: next(decided_again), **options) == reply
    assert state(session) == state(expected)


def test_a_sampler_of_somebody_else_is_asked_once_a_token() -> None:
    calls: list[int] = []

    def sampler(logprobs: mx.array) -> mx.array:
        calls.append(1)
        return greedy(logprobs) if len(calls) % 3 else mx.array(17)

    reply = said(plain(), sampler=sampler, stop_ids=())
    calls.clear()
    session = drafting(kind_of("right", stop_ids=()))
    assert said(session, sampler=sampler, stop_ids=()) == reply
    assert len(calls) == LENGTH


@pytest.mark.parametrize("wrong", [-1, VOCAB, 1 << 40])
def test_a_draft_that_is_no_token_is_refused_and_the_timeline_stays_complete(wrong: int) -> None:
    session = drafting(ScriptedDrafts(lambda tokens, count: [5, wrong]))
    with pytest.raises(UsageError, match="another model's"):
        said(session)
    assert session.tokens == PROMPT
    expected = plain()
    assert said(drafting(ScriptedDrafts(lambda tokens, count: []))) == said(expected)


def test_a_pass_that_fails_leaves_the_last_complete_moment() -> None:
    session = drafting(kind_of("right", stop_ids=()))
    fake = session._running.model
    fake.fail_at = len(PROMPT) + 9  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="told to fail"):
        said(session, stop_ids=())
    held = session.tokens
    expected = plain()
    text = [token.id for token in said(expected, stop_ids=())]
    assert held == [*PROMPT, *text][: len(held)]
    rest = LENGTH - (len(held) - len(PROMPT))
    assert [token.id for token in said(session, rest, stop_ids=())] == text[-rest:]
    assert state(session) == state(expected)


def test_tokens_are_passes_and_accepted_drafts(exact_rows: int) -> None:
    for kind, passes in (("right", 4), ("wrong", LENGTH), ("none", LENGTH)):
        session = drafting(kind_of(kind, stop_ids=()))
        reply = said(session, stop_ids=())
        use = session.draft_use
        assert use is not None
        assert len(reply) == use.passes + use.accepted
        assert use.passes == passes
        assert use.accepted <= use.drafted
        calls = session._running.model.calls  # type: ignore[attr-defined]
        assert kind == "none" or (6 in calls) == (exact_rows == 8)


def test_no_draft_is_asked_for_that_no_token_could_follow() -> None:
    drafts = kind_of("right", stop_ids=())
    said(drafting(drafts), 8, stop_ids=())
    assert drafts.asked == [5, 1]


def test_a_drafter_whose_gain_is_unknown_begins_with_shadows() -> None:
    drafts = kind_of("right", stop_ids=())
    session = fake_engine(model(), drafts=drafts).session()
    session.sync(PROMPT)
    expected = plain()
    assert said(session, stop_ids=()) == said(expected, stop_ids=())
    assert drafts.asked[:1] == [5]
    assert session.draft_use is not None and session.draft_use.drafted == 0
    assert state(session) == state(expected)


def test_lookup_goes_on_as_a_timeline_did_before() -> None:
    drafter = Lookup().new_drafter()
    drafter.reset([1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 2, 3, 4, 5])
    assert drafter.draft(6, 4) == []  # 1 before is 50 now
    drafter.reset([1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 1, 2, 3, 4, 5])
    assert drafter.draft(6, 4) == [7, 8, 9, 50]
    drafter.absorb([6, 7])
    assert drafter.draft(8, 2) == [9, 50]
    assert drafter.draft(99, 2) == []


def test_lookup_takes_the_last_of_several_places() -> None:
    drafter = Lookup().new_drafter()
    again = [1, 2, 3, 4, 5, 6]
    drafter.reset([*again, 10, *again, 20, *again[:-1]])
    assert drafter.draft(6, 1) == [20]
    for _ in range(2000):  # and grows
        drafter.absorb([7])
    assert drafter.draft(7, 3) == [7] * 3 or drafter.draft(7, 3) == []
