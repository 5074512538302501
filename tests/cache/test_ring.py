"""Rings: whatever way rows come, the row of position p is at p mod size, and old ones are kept."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsv4_mlx.cache import ring


def rows(first: int, stop: int) -> mx.array:
    """Rows that say their position: [1, n, 2]."""
    return mx.stack([mx.arange(first, stop), -mx.arange(first, stop)], axis=-1)[None]


@given(
    size=st.integers(1, 9),
    counts=st.lists(st.sampled_from([1, 2, 3, 8, 9, 10, 19, 40]), min_size=1, max_size=6),
)
def test_any_calls_leave_the_last_rows_in_their_places(size: int, counts: list[int]) -> None:
    array, bounds = None, np.cumsum([0, *counts]).tolist()
    for first, stop in pairwise(bounds):
        array = ring.write(array, rows(first, stop), first, size)
    end = bounds[-1]
    found = np.array(array)[0, :, 0]
    for position in range(max(0, end - size), end):
        assert found[position % size] == position
    kept = min(size, end)
    assert mx.array_equal(ring.read(array, end - kept, end), rows(end - kept, end))


def test_a_ring_somebody_holds_does_not_change() -> None:
    held = ring.write(None, rows(0, 3), 0, 4)
    mx.eval(held)
    before = np.array(held)
    mx.eval(ring.write(held, rows(3, 9), 3, 4))
    np.testing.assert_array_equal(np.array(held), before)


@pytest.mark.parametrize("earlier", [0, 1, 4])
def test_rows_of_a_call_come_behind_the_earlier_ones(earlier: int) -> None:
    array = ring.write(None, rows(0, 6), 0, 4)
    found = ring.followed_by(array, rows(6, 9), 6, earlier)
    assert mx.array_equal(found, rows(6 - earlier, 9))


def test_without_a_ring_there_are_no_earlier_rows() -> None:
    assert mx.array_equal(ring.followed_by(None, rows(0, 2), 0, 0), rows(0, 2))
