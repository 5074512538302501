"""A session is one timeline: whatever happens to it, it predicts what its tokens predict."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import PromptError
from dsv4_mlx.scripted.fake import FakeCaches, FakeModel
from tests.engine.sessions import PROMPT, SetAfter, engine, expected, ids, synced


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
    assert steps == [(0, 40), (16, 40), (32, 40), (40, 40)]
    assert (result.reused, result.read, result.cancelled) == (0, 40, False)


def test_the_last_chunk_gives_the_logits_and_no_step_of_its_own_does() -> None:
    model = FakeModel()
    session = engine(model).session()
    session.sync(PROMPT, places=[5, 20])
    assert model.calls == [16, 16, 8]
    assert session.snapshot().offset == 40
    assert model.calls == [16, 16, 8]
    assert ids(session, 3) == expected(PROMPT, 3)


def test_a_continued_conversation_reads_only_what_is_new() -> None:
    session = synced()
    reply = ids(session, 4)
    steps: list[tuple[int, int]] = []
    result = session.sync([*PROMPT, *reply, 7, 8, 9], lambda *step: steps.append(step))
    assert (result.reused, result.read) == (44, 3)
    assert steps == [(0, 3), (3, 3)]
    assert ids(session, 3) == expected([*PROMPT, *reply, 7, 8, 9], 3)


def test_the_same_prompt_again_reads_nothing_before_a_reply() -> None:
    session = synced()
    result = session.sync(PROMPT)
    assert (result.reused, result.read) == (40, 0)
    assert ids(session, 2) == expected(PROMPT, 2)


def test_the_same_prompt_after_a_reply_reads_nothing() -> None:
    session = synced()
    first = ids(session, 6)
    for _ in range(2):
        result = session.sync(PROMPT)
        assert (result.reused, result.read) == (40, 0)
        assert session.tokens == PROMPT
        assert ids(session, 6) == first


def test_the_same_prompt_after_a_rewind_reads_nothing() -> None:
    session = synced()
    first = ids(session, 6)
    session.rewind(10)
    assert session.sync(PROMPT).read == 0
    assert ids(session, 6) == first


def test_the_same_prompt_after_another_one_reads_one_token() -> None:
    session = synced()
    first = ids(session, 6)
    assert session.sync([*PROMPT, 9, 8]).reused == 39
    result = session.sync(PROMPT)
    assert (result.reused, result.read) == (39, 1)
    assert ids(session, 6) == first


def test_the_same_prompt_after_another_one_of_its_length_is_read() -> None:
    session = synced()
    session.sync([*PROMPT[:-2], 7, 7], places=[38])
    assert session.sync(PROMPT).read == 2
    assert ids(session, 6) == expected(PROMPT, 6)


def test_the_same_prompt_in_a_fork_reads_nothing() -> None:
    session = synced()
    first = ids(session, 6)
    fork = session.fork()
    session.sync([*PROMPT[:30], 4])
    assert fork.sync(PROMPT).read == 0
    assert ids(fork, 6) == first
    assert session.sync(PROMPT).read == 10


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


@pytest.mark.parametrize(("looks", "read"), [(0, 0), (1, 16), (2, 32)])
def test_cancel_ends_reading_within_a_chunk(looks: int, read: int) -> None:
    session = engine().session()
    result = session.sync(PROMPT, cancel=SetAfter(looks))
    assert (result.read, result.cancelled) == (read, True)
    assert session.tokens == PROMPT[:read]
    again = session.sync(PROMPT)
    assert (again.reused, again.read, again.cancelled) == (read, 40 - read, False)
    assert ids(session, 3) == expected(PROMPT, 3)


@pytest.mark.parametrize("looks", [1, 2])
def test_a_cancelled_prompt_can_be_continued_from(looks: int) -> None:
    session = engine().session()
    session.sync(PROMPT, cancel=SetAfter(looks))
    assert ids(session, 3) == expected(session.tokens[:-3], 3)


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
