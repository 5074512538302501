"""Where a session can return to, in memory and by a file, without reading anything again."""

from pathlib import Path

import pytest

from dsv4_mlx.errors import CacheError, PromptError
from dsv4_mlx.scripted.fake import FakeModel
from tests.engine.sessions import PROMPT, engine, expected, ids, synced


def test_turn_snapshots_stay_within_their_bytes() -> None:
    session = synced(snapshot_bytes=2500)
    prompt = list(PROMPT)
    for turn in range(5):
        prompt = [*session.tokens, *ids(session, 2), 50 + turn, 60 + turn]
        session.sync(prompt)
    assert session.places.nbytes <= 2500
    held = [place.offset for place in session.places if place.snapshot is not None]
    dropped = [place.offset for place in session.places if place.snapshot is None]
    assert len(held) == 2
    assert dropped == sorted(dropped)
    assert max(dropped) < min(held)


def test_a_dropped_turn_is_read_again() -> None:
    session = synced(snapshot_bytes=0)
    ids(session, 3)
    result = session.sync([*PROMPT[:30], 200])
    assert (result.reused, result.read) == (0, 31)
    assert ids(session, 2) == expected([*PROMPT[:30], 200], 2)


def test_going_back_forgets_the_places_after() -> None:
    session = synced()
    session.sync([*session.tokens, 7, 8, 9])
    session.sync([*PROMPT, 100])
    assert max(place.offset for place in session.places) <= 40


def test_no_place_is_remembered_twice() -> None:
    session = synced()
    for _ in range(3):
        ids(session, 2)
        session.sync(PROMPT)
    offsets = [place.offset for place in session.places]
    assert offsets == sorted(set(offsets))


def test_places_are_taken_where_they_are_asked_for() -> None:
    session = engine().session()
    steps: list[int] = []
    session.sync(PROMPT, lambda done, _: steps.append(done), places=[20, 5, 39, 40, 99])
    assert steps == [0, 16, 32, 40]
    assert [place.offset for place in session.places] == [5, 20, 39]
    assert ids(session, 3) == expected(PROMPT, 3)
    result = session.sync([*PROMPT[:20], 7, 8])
    assert (result.reused, result.read) == (20, 2)


def test_rewinding_to_a_place_reads_nothing() -> None:
    session = engine().session()
    session.sync(PROMPT, places=[20])
    ids(session, 3)
    assert session.rewind(20) == 20
    assert session.tokens == PROMPT[:20]
    assert session.sync([*PROMPT[:20], 7]).read == 1
    assert ids(session, 3) == expected([*PROMPT[:20], 7], 3)


def test_rewinding_between_places_goes_to_the_one_before() -> None:
    session = engine().session()
    session.sync(PROMPT, places=[20])
    assert session.rewind(30) == 20
    assert session.rewind(19) == 0
    assert session.tokens == []


def test_rewinding_beyond_the_end_changes_nothing() -> None:
    session = synced()
    assert session.rewind(50) == 40
    assert session.sync(PROMPT).read == 0


def test_restore_goes_back_and_forth() -> None:
    session = synced()
    here = session.snapshot()
    reply = ids(session, 5)
    there = session.snapshot()
    session.restore(here)
    assert session.tokens == PROMPT
    session.sync([*PROMPT, 200, 201])
    session.restore(there)
    assert session.tokens == PROMPT + reply
    assert ids(session, 3) == expected(PROMPT + reply, 3)
    session.restore(here)
    assert ids(session, 5) == reply


def test_a_restored_point_has_its_logits() -> None:
    model = FakeModel()
    session = engine(model).session()
    session.sync(PROMPT)
    here = session.snapshot()
    ids(session, 5)
    read = len(model.calls)
    session.restore(here)
    assert session.sync(PROMPT).read == 0
    assert len(model.calls) == read
    assert here.offset == 40
    assert here.nbytes == 1000 + 4 * 300


def test_forks_go_their_own_ways() -> None:
    session = synced()
    ids(session, 2)
    twin = session.fork()
    common = session.tokens
    session.sync([*common, 7])
    twin.sync([*common, 8])
    assert ids(session, 3) == expected([*common, 7], 3)
    assert ids(twin, 3) == expected([*common, 8], 3)
    assert twin.sync(PROMPT).read == 1


def test_an_empty_session_forks_but_has_no_snapshot() -> None:
    session = engine().session()
    assert session.fork().tokens == []
    with pytest.raises(PromptError, match="no prompt"):
        session.snapshot()


def test_a_saved_timeline_continues(tmp_path: Path) -> None:
    session = synced()
    reply = ids(session, 3)
    session.save(tmp_path / "a.session", {"title": "Ägypten"})
    other = engine().session()
    assert other.load(tmp_path / "a.session") == {"title": "Ägypten"}
    assert other.tokens == PROMPT + reply
    model = other._running.model
    assert isinstance(model, FakeModel)
    assert ids(other, 3) == expected(PROMPT + reply, 3)
    assert model.calls == [1, 1, 1]


def test_the_places_are_saved_with_the_timeline(tmp_path: Path) -> None:
    session = engine().session()
    session.sync(PROMPT, places=[5, 20])
    session.save(tmp_path / "a.session")
    session.save(tmp_path / "few.session", place_bytes=2500)
    other = engine().session()
    other.load(tmp_path / "a.session")
    assert [place.offset for place in other.places] == [5, 20, 39]
    assert other.sync([*PROMPT[:20], 7]).read == 1
    assert ids(other, 2) == expected([*PROMPT[:20], 7], 2)
    other.load(tmp_path / "few.session")
    assert [place.offset for place in other.places] == [20, 39]


def test_a_timeline_saved_after_a_rewind_continues(tmp_path: Path) -> None:
    session = engine().session()
    session.sync(PROMPT, places=[20])
    session.rewind(20)
    session.save(tmp_path / "a.session")
    other = engine().session()
    other.load(tmp_path / "a.session")
    assert other.sync([*PROMPT[:20], 7, 8]).reused == 20
    assert ids(other, 2) == expected([*PROMPT[:20], 7, 8], 2)


def test_a_place_is_saved_as_a_timeline_of_its_own(tmp_path: Path) -> None:
    session = engine().session()
    session.sync(PROMPT, places=[20])
    ids(session, 3)
    session.save_place(tmp_path / "a.session", 20)
    assert ids(session, 2) == expected(session.tokens[:-2], 2)
    other = engine().session()
    other.load(tmp_path / "a.session")
    assert other.sync([*PROMPT[:20], 7]).reused == 20
    assert ids(other, 2) == expected([*PROMPT[:20], 7], 2)
    with pytest.raises(CacheError, match="no place at 21"):
        session.save_place(tmp_path / "b.session", 21)


def test_a_fork_after_a_rewind_reads_nothing() -> None:
    model = FakeModel()
    session = engine(model).session()
    session.sync(PROMPT, places=[20])
    session.rewind(20)
    read = len(model.calls)
    twin = session.fork()
    assert len(model.calls) == read
    assert twin.sync([*PROMPT[:20], 7]).reused == 20


def test_a_timeline_of_another_model_is_refused(tmp_path: Path) -> None:
    synced().save(tmp_path / "a.session")
    model = FakeModel()
    model.fingerprint = "another"
    session = engine(model).session()
    session.sync([3, 4])
    with pytest.raises(CacheError, match="another"):
        session.load(tmp_path / "a.session")
    assert session.tokens == [3, 4]
    assert len(ids(session, 2)) == 2


def test_a_timeline_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    synced().save(tmp_path / "a.session")
    with pytest.raises(CacheError, match="300 logits"):
        engine(FakeModel(vocab_size=301)).session().load(tmp_path / "a.session")


def test_an_empty_session_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="nothing to save"):
        engine().session().save(tmp_path / "a.session")
    assert not (tmp_path / "a.session").exists()
