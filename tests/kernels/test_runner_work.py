"""The work of the host runner: counted by kernel, the same each time, and bounded."""

import mlx.core as mx
import pytest

from tests.kernels.cuda_host import cuda_host_plan
from tests.kernels.host import host_plan
from tests.kernels.runner_work import ALLOWED, Work, charge, counted_seconds, counting
from tests.metalhost.launch import Counts

pytestmark = pytest.mark.needs("metalhost")


def products(mode: str, rows: int = 1) -> Work:
    """The work of one product."""
    with counting() as done, host_plan(mode) as plan:
        plan.ops.dense_matvec(mx.ones((rows, 64)), mx.ones((8, 64)))
    return done


def test_a_launch_counts_for_the_kernel_of_its_text() -> None:
    assert products("checked").counted.keys() == {"dense_matvec"}


def test_the_same_launch_counts_the_same_every_time() -> None:
    assert products("checked").counted == products("checked").counted


def test_more_rows_and_more_checks_count_more() -> None:
    fast, checked, more = (
        products(*case).counted["dense_matvec"]
        for case in (("fast", 1), ("checked", 1), ("checked", 16))
    )
    assert fast < checked < more


def test_launches_of_cuda_texts_count_too() -> None:
    with counting() as done, cuda_host_plan() as plan:
        plan.ops.dense_matvec(mx.ones((1, 64)), mx.ones((8, 64)))
    assert done.counted["dense_matvec"] > 0


def test_every_count_weighs() -> None:
    nothing = Counts(0, 0, 0, 0, 0)
    for name in ("checked_accesses", "records", "lane_switches", "threads"):
        counts = Counts(**{**vars(nothing), name: 1000})
        assert counted_seconds(counts) > counted_seconds(nothing)


@pytest.mark.parametrize("group", ALLOWED)
def test_the_test_that_exceeds_a_kernels_work_fails(group: str) -> None:
    total, done = Work(), Work()
    done.add("router", 0.6 * ALLOWED[group], 1.0)
    charge(total, group, done)
    with pytest.raises(AssertionError, match=f"^router: expected at most .* in the {group} tests"):
        charge(total, group, done)


def test_only_the_tests_of_that_kernel_fail() -> None:
    total, done = Work(), Work()
    total.add("router", 2 * ALLOWED["plain"], 1.0)
    done.add("swiglu", 0.1, 1.0)
    charge(total, "plain", done)
    assert total.counted["swiglu"] == 0.1
