"""The decision of a self-test: comparisons and times in, rows and a reason out; no clock."""

from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.exact_rows.finding import (
    ProductTimes,
    RowsAlike,
    find,
    has_same_bits,
    lowest,
    measured,
    rows_alike,
)


class Scripted:
    """Tests whose results are given; remembers what was asked."""

    weight_bytes = 7

    def __init__(
        self, rows: int = 8, slower: float = 0.0, exact: bool = True, rounds: bool = True
    ) -> None:
        self._rows, self._slower, self._exact, self._rounds = rows, slower, exact, rounds
        self.asked: list[Any] = []

    def alike(self) -> RowsAlike:
        self.asked.append("alike")
        return RowsAlike(self._rows, "o_a_proj")

    def times(self) -> ProductTimes:
        self.asked.append("times")
        return ProductTimes([1.0 + self._slower], [1.0], [0.0])

    def pass_is_exact(self, rows: int) -> bool:
        self.asked.append(rows)
        return self._exact

    def round_is_exact(self, rows: int) -> bool:
        self.asked.append(f"round {rows}")
        return self._rounds


@pytest.mark.parametrize(
    ("given", "rows", "words", "asked"),
    [
        ({}, 8, "", ["alike", "times", 8, "round 8"]),
        ({"rows": 5}, 5, "", ["alike", "times", 5, "round 5"]),
        ({"rounds": False}, 8, "", ["alike", "times", 8, "round 8"]),
        ({"rows": 1}, 1, "(o_a_proj)", ["alike"]),
        ({"slower": 0.0299}, 8, "", ["alike", "times", 8, "round 8"]),
        ({"slower": -0.4}, 8, "", ["alike", "times", 8, "round 8"]),
        ({"slower": 0.031}, 1, "take 3% longer than MLX's", ["alike", "times"]),
        ({"slower": 0.25}, 1, "take 25% longer than MLX's", ["alike", "times"]),
        ({"exact": False}, 1, "a pass of 8 rows", ["alike", "times", 8]),
    ],
)
def test_what_rules_rows_out_is_the_last_thing_tried(
    given: dict[str, Any], rows: int, words: str, asked: list[Any]
) -> None:
    tests = Scripted(**given)
    found = find(tests)
    assert (found.exact_rows, found.weight_bytes, tests.asked) == (rows, 7, asked)
    assert (words in found.reason) if words else found.reason == ""
    assert found.round_rows == (1 if given.get("rounds") is False else rows)


@pytest.mark.parametrize(
    ("ours", "mlx", "nothing", "slower"),
    [
        ([1.03], [1.0], [0.0], 0.03),
        # What an evaluation takes by itself hides no slowness.
        ([1.015], [1.0], [0.5], 0.03),
        # Medians: one time of each that was disturbed counts for nothing.
        ([1.0, 1.0, 90.0], [1.0, 50.0, 1.0], [0.1, 0.1, 9.0], 0.0),
        ([0.9], [1.0], [0.0], -0.1),
        # So little that nothing takes as long.
        ([1.1], [1.0], [1.0], 0.1),
    ],
)
def test_slowness_is_of_medians_without_what_nothing_takes(
    ours: list[float], mlx: list[float], nothing: list[float], slower: float
) -> None:
    assert ProductTimes(ours, mlx, nothing).slower == pytest.approx(slower)


def test_times_are_taken_in_turn_and_the_first_of_each_is_not_counted() -> None:
    """A machine that grows slower with every evaluation is as slow for one as for the other."""
    now, called = [0.0], []

    def call(name: str) -> Any:
        return lambda: called.append(name) or []

    def clock() -> float:
        now[0] += 1.0 + 0.01 * len(called)
        return now[0]

    times = measured(call("ours"), call("mlx"), call("nothing"), clock, rounds=4)
    assert [len(one) for one in (times.ours, times.mlx, times.nothing)] == [4, 4, 4]
    assert called[3:9] == ["nothing", "mlx", "ours", "ours", "mlx", "nothing"]
    assert times.ours[0] > 1.05 and abs(sum(times.ours) - sum(times.mlx)) < 1e-9


@pytest.mark.parametrize("breaks_at", [2, 3, 5, 8, 9])
def test_rows_are_alike_up_to_the_first_count_that_changes_a_bit(breaks_at: int) -> None:
    def run(first: int, count: int) -> mx.array:
        rows = mx.arange(first, first + count)[:, None] + mx.array([0.5, mx.nan])
        bits = rows.view(mx.uint32)
        changed = mx.array([[0, 0]] * (count - 1) + [[int(count >= breaks_at), 0]], mx.uint32)
        return (bits + changed).view(mx.float32)

    assert rows_alike(run) == breaks_at - 1


def test_bits_are_compared_and_not_values() -> None:
    zero = mx.array([0.0, mx.nan])
    assert has_same_bits(zero, zero + 0).item()
    assert not has_same_bits(zero, mx.array([-0.0, mx.nan])).item()
    assert not has_same_bits(zero, zero.astype(mx.bfloat16)).item()
    assert not has_same_bits(zero, zero[None]).item()


def test_the_lowest_part_decides_and_is_named() -> None:
    assert lowest({"q": 8, "o_a": 3, "o_b": 5}) == RowsAlike(3, "o_a")


@pytest.mark.parametrize(
    "finding",
    [RowFinding(8, "", 0.01, 5), RowFinding(1, "it is slow", 0.5, 5), RowFinding(1, "no", None)],
)
def test_a_record_gives_the_finding_again(finding: RowFinding) -> None:
    assert RowFinding.of_record(finding.as_record()) == finding


@pytest.mark.parametrize(
    "change",
    [
        {"exact_rows": 9}, {"exact_rows": 0}, {"exact_rows": "many"}, {"exact_rows": 1},
        {"reason": "slow"}, {"slower": "x"}, {"weight_bytes": None},
    ],
)  # fmt: skip
def test_a_record_that_contradicts_itself_is_none(change: dict[str, Any]) -> None:
    assert RowFinding.of_record(RowFinding(8).as_record() | change) is None
    assert RowFinding.of_record([]) is None
