"""A session is one timeline: whatever happens to it, it predicts what its tokens predict."""

import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine import Engine
from dsv4_mlx.errors import CacheError, PromptError, UsageError
from dsv4_mlx.scripted.fake import FakeCaches, FakeModel, fake_engine, scripted
from dsv4_mlx.session import Session

PROMPT = list(range(2, 42))


def engine(model: FakeModel | None = None, **options: Any) -> Engine:
    return fake_engine(model, **{"prefill_chunk": 16, **options})


def synced(prompt: list[int] = PROMPT, **options: Any) -> Session:
    session = engine(**options).session()
    session.sync(prompt)
    return session


def ids(session: Session, count: int, **options: Any) -> list[int]:
    return [token.id for token in session.stream(count, stop_ids=(), **options)]


def expected(history: list[int], count: int) -> list[int]:
    """Greedy tokens after ``history``, from the model alone."""
    model, history = FakeModel(), list(history)
    for _ in range(count):
        history.append(int(np.argmax(model.logits(history))))
    return history[len(history) - count :]


# sync


@pytest.mark.parametrize("chunk", [1, 7, 39, 40, 41, 512])
def test_any_chunk_size_gives_the_same_tokens(chunk: int) -> None:
    assert ids(synced(prefill_chunk=chunk), 5) == expected(PROMPT, 5)


def test_the_timeline_is_the_prompt_and_what_was_generated() -> None:
    session = synced()
    reply = ids(session, 3)
    assert session.tokens == PROMPT + reply
    assert len(session) == 43


def test_progress_counts_what_has_to_be_read() -> None:
    session = engine().session()
    steps: list[tuple[int, int]] = []
    result = session.sync(PROMPT, lambda done, total: steps.append((done, total)))
    assert steps == [(0, 40), (16, 40), (32, 40), (39, 40), (40, 40)]
    assert (result.reused, result.read, result.cancelled) == (0, 40, False)


def test_a_continued_conversation_reads_only_what_is_new() -> None:
    session = synced()
    reply = ids(session, 4)
    steps: list[tuple[int, int]] = []
    result = session.sync([*PROMPT, *reply, 7, 8, 9], lambda *step: steps.append(step))
    assert (result.reused, result.read) == (44, 3)
    assert steps == [(0, 3), (2, 3), (3, 3)]
    assert ids(session, 3) == expected([*PROMPT, *reply, 7, 8, 9], 3)


def test_the_same_prompt_again_reads_nothing_before_a_reply() -> None:
    session = synced()
    result = session.sync(PROMPT)
    assert (result.reused, result.read) == (40, 0)
    assert ids(session, 2) == expected(PROMPT, 2)


def test_the_same_prompt_after_a_reply_reads_one_token() -> None:
    session = synced()
    first = ids(session, 6)
    result = session.sync(PROMPT)
    assert (result.reused, result.read) == (39, 1)
    assert ids(session, 6) == first


def test_a_prompt_whose_last_token_changed_reads_one_token() -> None:
    # The next turn of a reasoning chat closes the thinking tag that this turn had opened.
    session = synced()
    ids(session, 6)
    result = session.sync([*PROMPT[:-1], 99, 5, 6])
    assert (result.reused, result.read) == (39, 3)
    assert ids(session, 2) == expected([*PROMPT[:-1], 99, 5, 6], 2)


def test_an_edited_message_goes_back_to_the_end_of_the_turn_before() -> None:
    session = synced()
    reply = ids(session, 3)
    turn = [*PROMPT, *reply]
    session.sync([*turn, 7, 8, 9])
    ids(session, 3)
    result = session.sync([*turn, 7, 100, 9])
    assert (result.reused, result.read) == (43, 3)
    assert ids(session, 2) == expected([*turn, 7, 100, 9], 2)


def test_an_unknown_prompt_starts_again() -> None:
    session = synced()
    result = session.sync([9, *PROMPT])
    assert (result.reused, result.read) == (0, 41)
    assert ids(session, 2) == expected([9, *PROMPT], 2)


def test_a_shorter_prompt_cuts_the_timeline() -> None:
    session = synced()
    session.sync(PROMPT[:10])
    assert session.tokens == PROMPT[:10]
    assert ids(session, 2) == expected(PROMPT[:10], 2)


def test_one_token_is_a_prompt() -> None:
    assert ids(synced([3]), 2) == expected([3], 2)


def test_array_elements_are_tokens() -> None:
    session = engine().session()
    session.sync(list(np.array(PROMPT)))
    assert session.tokens == PROMPT
    assert all(type(token) is int for token in session.tokens)


# snapshots of the turns


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


def test_going_back_forgets_the_places_behind() -> None:
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
    assert steps == [0, 5, 20, 36, 39, 40]
    assert [place.offset for place in session.places] == [5, 20, 39]
    assert ids(session, 3) == expected(PROMPT, 3)
    result = session.sync([*PROMPT[:20], 7, 8])
    assert (result.reused, result.read) == (20, 2)


# rewind


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


def test_rewinding_behind_the_end_changes_nothing() -> None:
    session = synced()
    assert session.rewind(50) == 40
    assert session.sync(PROMPT).read == 0


# stream


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


# cancel


class SetAfter:
    """A flag that is set from its n-th look on."""

    def __init__(self, looks: int):
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize(("looks", "read"), [(0, 0), (1, 16), (2, 32), (3, 39)])
def test_cancel_ends_reading_within_a_chunk(looks: int, read: int) -> None:
    session = engine().session()
    result = session.sync(PROMPT, cancel=SetAfter(looks))
    assert (result.read, result.cancelled) == (read, True)
    assert session.tokens == PROMPT[:read]
    again = session.sync(PROMPT)
    assert (again.reused, again.read, again.cancelled) == (read, 40 - read, False)
    assert ids(session, 3) == expected(PROMPT, 3)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_cancelled_prompt_can_be_continued_from(looks: int) -> None:
    session = engine().session()
    session.sync(PROMPT, cancel=SetAfter(looks))
    assert ids(session, 3) == expected(session.tokens[:-3], 3)


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


# failure


def test_a_failure_while_reading_leaves_what_was_read() -> None:
    model = FakeModel()
    session = engine(model).session()
    model.fail_at = 20
    with pytest.raises(RuntimeError):
        session.sync(PROMPT)
    assert session.tokens == PROMPT[:16]
    session.sync(PROMPT)
    assert ids(session, 3) == expected(PROMPT, 3)


def test_a_failure_while_generating_leaves_the_tokens_yielded() -> None:
    model = FakeModel()
    session = engine(model).session()
    session.sync(PROMPT)
    model.fail_at = 42
    reply = []
    with pytest.raises(RuntimeError):
        for token in session.stream(10, stop_ids=()):
            reply.append(token.id)
    assert session.tokens == PROMPT + reply
    assert reply + ids(session, 4) == expected(PROMPT, len(reply) + 4)


def test_a_failing_progress_callback_loses_nothing() -> None:
    def fail(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    session = engine().session()
    with pytest.raises(KeyboardInterrupt):
        session.sync(PROMPT, fail)
    assert session.tokens == PROMPT[:16]
    assert session.sync(PROMPT).reused == 16


# snapshot, restore, fork


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


# save, load


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


# refusals


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "empty"),
        ([1, 300], "Token 1 of the prompt is 300"),
        ([-1], "Token 0 of the prompt is -1"),
        ([5] * 65, "65 tokens and the model's context holds 64"),
    ],
)
def test_prompts_that_no_model_can_read(prompt: list[int], words: str) -> None:
    session = engine(FakeModel(max_position_embeddings=64)).session()
    session.sync([4, 5])
    with pytest.raises(PromptError, match=words):
        session.sync(prompt)
    assert session.tokens == [4, 5]


def test_streaming_without_a_prompt() -> None:
    with pytest.raises(PromptError, match="no prompt"):
        engine().session().stream()


def test_limits_out_of_range() -> None:
    with pytest.raises(UsageError, match="max_tokens"):
        synced().stream(-1)
    with pytest.raises(UsageError, match="prefill_chunk"):
        engine(prefill_chunk=0)


# everything at once

STEP = st.one_of(
    st.tuples(st.just("sync"), st.integers(1, 60), st.lists(st.integers(2, 9), max_size=12)),
    st.tuples(st.just("stream"), st.integers(0, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("restore"), st.integers(0, 5)),
    st.tuples(st.just("fork")),
    st.tuples(st.just("fail"), st.integers(0, 60)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=14), st.sampled_from([0, 2500, 1 << 20]))
def test_a_session_predicts_what_its_tokens_predict(steps: list[Any], budget: int) -> None:
    model = FakeModel(vocab_size=40)
    caches = FakeCaches()
    session = Engine(model, prefill_chunk=5, snapshot_bytes=budget, caches=caches).session()
    session.sync([3])
    snapshots = []
    for kind, *values in steps:
        try:
            if not session.tokens:  # cancelled before anything was read
                session.sync([3])
            if kind == "sync":
                session.sync([*session.tokens[: values[0]], *values[1]])
            elif kind == "stream":
                ids(session, values[0])
            elif kind == "cancel":
                session.sync([*session.tokens, *range(2, 30)], cancel=SetAfter(values[0]))
            elif kind == "snapshot":
                snapshots.append(session.snapshot())
            elif kind == "restore" and snapshots:
                session.restore(snapshots[values[0] % len(snapshots)])
            elif kind == "fork":
                session = session.fork()
            elif kind == "fail":
                model.fail_at = values[0]
        except RuntimeError:
            assert model.fail_at is None
    model.fail_at = None
    if not session.tokens:
        session.sync([3])
    history = session.tokens
    here = session.snapshot()
    assert here.tokens == tuple(history)
    np.testing.assert_array_equal(np.array(here.logits), model.logits(history))
