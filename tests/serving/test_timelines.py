"""Timelines over all conversations: what is found again, what is kept and what goes."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.serving.held import may_go
from dsv4_mlx.serving.timelines import APART, Timelines, places_of
from tests.engine.sessions import expected
from tests.serving.lines import CHUNK, answered, engine, timelines

A = list(range(2, 42))


def test_a_longer_prompt_reads_only_what_is_new() -> None:
    lines = timelines()
    _, said = answered(lines, A, 5)
    assert answered(lines, [*A, *said, 7, 8], 3) == (45, expected([*A, *said, 7, 8], 3))
    assert answered(lines, A, 5) == (39, said)


def test_a_retry_and_an_edit_go_on_from_the_nearest_place() -> None:
    lines = timelines()
    answered(lines, A, 5, places=[20])
    assert answered(lines, [*A[:39], 100], 3) == (39, expected([*A[:39], 100], 3))
    assert answered(lines, [*A[:30], 100], 3) == (20, expected([*A[:30], 100], 3))
    assert answered(lines, A, 5) == (39, expected(A, 5))


def test_a_branch_leaves_the_other_one_alone() -> None:
    lines = timelines()
    _, said = answered(lines, A, 20)
    for other, reused in ((100, 39), (101, 40), (102, 40)):
        assert answered(lines, [*A, other], 4) == (reused, expected([*A, other], 4))
    assert answered(lines, [*A, *said, 9], 4) == (60, expected([*A, *said, 9], 4))


def test_owners_do_not_share() -> None:
    lines = timelines()
    answered(lines, A, owner="one")
    assert answered(lines, A, owner="two")[0] == 0
    assert lines.look(A, "one").found == 40
    lines.forget("one")
    assert lines.look(A, "one").found == 0


def test_looking_tells_where_a_prompt_parts() -> None:
    lines = timelines()
    answered(lines, A, places=[20])
    parting = lines.look([*A[:30], 100, 101])
    assert (parting.matched, parting.found) == (30, 20)


def test_a_reading_that_is_left_is_gone_on_with() -> None:
    lines = timelines()
    with lines.open(A) as line:
        reading = line.session.reading(A)
        assert [next(reading) for _ in range(3)] == [0, CHUNK, 2 * CHUNK]
        reading.close()
        lines.keep(line)
    assert answered(lines, A, 5) == (32, expected(A, 5))


def test_chunks_end_at_multiples_wherever_a_reading_begins() -> None:
    lines = timelines()
    answered(lines, A[:21])
    with lines.open(A) as line:
        assert list(line.session.reading(A)) == [21, 32, 40]


def test_a_failure_keeps_what_was_read() -> None:
    model = FakeModel()
    lines = Timelines(engine(model), 1 << 30)
    model.fail_at = 35
    with lines.open(A) as line:
        with pytest.raises(RuntimeError):
            list(line.session.reading(A, [20]))
        lines.keep(line)
    assert answered(lines, A, 5) == (32, expected(A, 5))


# Where places lie


@pytest.mark.parametrize(
    "boundaries, length, chosen",
    [
        ([1], 100, []),
        ([1, 30, 50, 70, 90], 100, [30, 70, 90]),
        ([], 3 * APART, [APART, 2 * APART]),
        ([100, 5000, 6000, 9000, 20000, 20100], 20200, [100, 6000, 9000, 16384, 20000, 20100]),
    ],
)
def test_places_lie_where_somebody_may_return(
    boundaries: list[int], length: int, chosen: list[int]
) -> None:
    assert places_of(boundaries, length) == chosen


@given(st.lists(st.integers(0, 999), max_size=40), st.integers(1, 1000), st.integers(10, 200))
def test_nothing_is_far_from_a_place(boundaries: list[int], length: int, apart: int) -> None:
    chosen = places_of(boundaries, length, apart)
    ends = [0, *chosen, length]
    assert chosen == sorted(set(chosen)) and all(0 < one < length for one in chosen)
    assert all(after - before <= 2 * apart for before, after in pairwise(ends))


# What goes


def test_what_was_used_longest_ago_goes_first() -> None:
    lines = timelines()
    for first in (100, 101, 102):
        answered(lines, [first, *A])
    answered(lines, [100, *A, 5])
    gone: list[int] = []
    while lines.nbytes:
        lines.budget_bytes = lines.nbytes - 1
        assert lines.shrink()
        found = {first: lines.look([first, *A, 5, 7]).found for first in (100, 101, 102)}
        gone += [first for first in found if not found[first] and first not in gone]
    assert gone == [101, 102, 100]


def test_places_of_side_requests_go_first_until_somebody_returns() -> None:
    for comes_back in (False, True):
        lines = timelines()
        answered(lines, [100, *A])
        answered(lines, [101, *A], is_side=True)
        if comes_back:
            answered(lines, [101, *A])
        lines.budget_bytes = lines.nbytes // 2 + 100
        lines.shrink()
        assert (lines.look([100, *A]).found > 0, lines.look([101, *A]).found > 0) == (
            (False, True) if comes_back else (True, False)
        )


def test_a_side_request_takes_nothing_from_a_conversation() -> None:
    lines = timelines()
    _, said = answered(lines, A, 5)
    lines.budget_bytes = lines.nbytes
    for number in range(20):
        answered(lines, [100 + number, *A], 3, is_side=True)
    assert answered(lines, [*A, *said, 7])[0] == 45


def test_the_beginning_that_all_share_outlives_what_followed_it() -> None:
    lines = timelines()
    for number in range(6):
        answered(lines, [*A, 100 + number, *A], places=[40], beginnings=[40])
    lines.budget_bytes = 3000
    assert lines.shrink()
    assert lines.look([*A, 7]).found == 40


def test_a_pinned_place_stays() -> None:
    lines = timelines()
    answered(lines, A)
    pin = lines.pin([*A, 5])
    assert pin.tokens == 40
    lines.budget_bytes = 0
    assert not lines.shrink()
    assert lines.look(A).found == 40
    pin.release()
    pin.release()
    assert lines.shrink()
    assert (len(lines), lines.nbytes) == (0, 0)


def test_way_points_of_a_long_conversation_go_before_its_end() -> None:
    lines = timelines()
    prompt = list(A)
    for turn in range(12):
        _, said = answered(lines, prompt, 4, places=[len(prompt) - 2], beginnings=[])
        prompt += [*said, 100 + turn, 50, 51]
    lines.budget_bytes = lines.nbytes // 3
    assert lines.shrink()
    assert lines.look(prompt).found == len(prompt) - 3


TURN = st.tuples(st.integers(0, 5), st.integers(1, 12), st.integers(0, 6), st.booleans())


@settings(max_examples=60)
@given(st.lists(TURN, max_size=14), st.integers(0, 30_000), st.data())
def test_any_order_of_requests_gives_each_what_it_gets_alone(
    turns: list[tuple[int, int, int, bool]], budget: int, data: st.DataObject
) -> None:
    lines = timelines(budget)
    prompts: list[list[int]] = [A]
    pins = [lines.pin(A)]
    for new, added, count, is_side in turns:
        base = data.draw(st.sampled_from(prompts))
        cut = data.draw(st.integers(1, len(base)))
        prompt = [*base[:cut], *range(50 + new, 50 + new + added)]
        before = found_again(lines)
        reused, said = answered(lines, prompt, count, places=[cut], is_side=is_side)
        assert 0 <= reused <= len(prompt)
        assert said == expected(prompt, count)
        prompts.append([*prompt, *said])
        assert_in_order(lines, before, budget)
        pins.append(lines.pin(data.draw(st.sampled_from(prompts))))
        if data.draw(st.booleans()):
            pins.pop(data.draw(st.integers(0, len(pins) - 1))).release()
    for pin in pins:
        pin.release()
    lines.budget_bytes = 0
    assert lines.shrink() and lines.nbytes == 0


def found_again(lines: Timelines) -> list[list[int]]:
    """Tokens of the places that something branched from, that are pinned or begin much."""
    return [node.tokens() for node in lines._nodes() if not may_go(node) and node.children]


def assert_in_order(lines: Timelines, before: Sequence[Sequence[int]], budget: int) -> None:
    held = {tuple(node.tokens()) for node in lines._nodes()}
    for tokens in before:
        after = [one for one in held if one[: len(tokens)] == tuple(tokens)]
        assert tuple(tokens) in held or len(after) < 2, "a place went that others branched from"
    is_full = any(may_go(node) for node in lines._nodes())
    assert lines.nbytes <= budget or not is_full


def test_states_are_those_of_the_engine_alone() -> None:
    """Bits of logits after a hit equal those of a session with the same reads."""
    one: Engine = engine()
    lines = Timelines(one, 1 << 30)
    answered(lines, A[:21])
    with lines.open(A) as line:
        list(line.session.reading(A))
        found = line.session.moment().logits
    alone = engine().session()
    list(alone.reading(A[:21]))
    list(alone.reading(A))
    other = alone.moment().logits
    assert found is not None and other is not None
    assert found.tolist() == other.tolist()
