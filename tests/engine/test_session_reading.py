"""Reading a prompt chunk by chunk, and moments that need no reading."""

import numpy as np
import pytest

from dsv4_mlx.errors import PromptError
from dsv4_mlx.scripted.fake import FakeModel
from tests.engine.sessions import PROMPT, engine, expected, ids


def test_reading_gives_what_sync_gives() -> None:
    one, other = engine().session(), engine().session()
    assert list(one.reading(PROMPT, [5, 20])) == [0, 16, 32, 40]
    other.sync(PROMPT, places=[5, 20])
    assert one.tokens == other.tokens == PROMPT
    assert [place.offset for place in one.places] == [place.offset for place in other.places]
    assert ids(one, 5) == ids(other, 5) == expected(PROMPT, 5)


def test_chunks_end_at_multiples_of_their_size() -> None:
    model = FakeModel()
    session = engine(model).session()
    session.sync(PROMPT[:19])
    model.calls.clear()
    assert list(session.reading(PROMPT)) == [19, 32, 40]
    assert model.calls == [13, 8]
    assert list(session.reading(PROMPT)) == [40]
    assert list(session.reading([*PROMPT[:25], 200])) == [19, 26]


def test_a_reading_that_is_left_goes_on_later() -> None:
    session = engine().session()
    reading = session.reading(PROMPT)
    assert [next(reading), next(reading)] == [0, 16]
    reading.close()
    assert session.tokens == PROMPT[:16]
    assert list(session.reading(PROMPT)) == [16, 32, 40]
    assert ids(session, 5) == expected(PROMPT, 5)


def test_a_model_that_works_ahead_is_told_what_follows_until_the_reading_is_left() -> None:
    told: list[object] = []
    one = engine()
    one.read_ahead = lambda cache, tokens, inside: told.append((tokens, inside))  # type: ignore[method-assign, assignment]
    one.end_reading = lambda cache: told.append("left")  # type: ignore[method-assign]
    list(one.session().reading(PROMPT, [20]))
    by_steps, told = told, []
    one.session().sync(PROMPT, places=[20])
    assert by_steps == told == [(PROMPT[16:32], [20]), (PROMPT[32:], [39]), ([], [])]
    told = []
    reading = one.session().reading(PROMPT)
    assert [next(reading), next(reading)] == [0, 16]
    reading.close()
    assert told == [(PROMPT[16:32], []), "left"]


def test_a_moment_is_good_for_any_session_of_the_engine() -> None:
    one = engine()
    session = one.session()
    session.sync(PROMPT)
    here = session.moment()
    reading = session.reading([*PROMPT, *PROMPT])
    assert [next(reading), next(reading)] == [40, 48]
    reading.close()
    there = session.moment()
    assert (here.offset, there.offset, there.logits) == (40, 48, None)
    for moment in (here, there):
        other = one.session()
        other.restore(moment)
        assert ids(other, 5) == expected(list(moment.tokens), 5)
    assert here.logits is not None
    np.testing.assert_array_equal(np.array(here.logits), FakeModel().logits(PROMPT))


def test_a_prompt_that_cannot_be_read_changes_nothing() -> None:
    session = engine().session()
    session.sync(PROMPT)
    with pytest.raises(PromptError):
        session.reading([1 << 30])
    assert session.tokens == PROMPT
