"""How much work the host runner does for a kernel's tests, and how much it may do.

One kernel may be checked for 20 seconds in the plain suite and for three minutes in the slow one. A
clock would make that a question of the machine and of what else it does; so launches are counted
and each count is weighed by what it took on one core (docs/LOG.md). The sum is the same everywhere.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from tests.metalhost import HostKernel
from tests.metalhost.launch import Counts

# Nanoseconds for one of each, and for a launch.
ACCESS, RECORD, LANE_SWITCH, THREAD, LAUNCH = 15, 5, 35, 50, 400_000
ALLOWED = {"plain": 12.0, "slow": 110.0}
"""Counted seconds per kernel, three fifths of what it may take."""


def counted_seconds(counts: Counts) -> float:
    """What a launch with these counts takes, its compilation left out."""
    return 1e-9 * (
        LAUNCH
        + ACCESS * counts.checked_accesses
        + RECORD * counts.records
        + LANE_SWITCH * counts.lane_switches
        + THREAD * counts.threads
    )


@dataclass
class Work:
    """Of launches, by the kernel whose folder has their text."""

    counted: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    """Seconds of the clock, compilation included: for people to read."""

    def add(self, kernel: str, counted: float, taken: float) -> None:
        self.counted[kernel] += counted
        self.taken[kernel] += taken

    def over(self, allowed: float) -> list[str]:
        return sorted(kernel for kernel, seconds in self.counted.items() if seconds > allowed)


TOTALS = {group: Work() for group in ALLOWED}
"""Of this run's tests."""
OPEN: list[Work] = []


@contextmanager
def counting() -> Iterator[Work]:
    """The work of the launches inside the block."""
    OPEN.append(Work())
    try:
        yield OPEN[-1]
    finally:
        OPEN.pop()


class Counted:
    """A kernel of the host runner whose launches are counted."""

    def __init__(self, kernel: HostKernel, owner: str) -> None:
        self.kernel = kernel
        self.owner = owner

    def __call__(self, **call: Any) -> list[Any]:
        start = perf_counter()
        outputs = self.kernel(**call)
        assert self.kernel.counts is not None
        for work in OPEN:
            work.add(self.owner, counted_seconds(self.kernel.counts), perf_counter() - start)
        return outputs


def charge(total: Work, group: str, done: Work) -> None:
    """Add a test's work to its group's total; AssertionError once a kernel has too much."""
    for kernel, counted in done.counted.items():
        total.add(kernel, counted, done.taken[kernel])
    for kernel in total.over(ALLOWED[group]):
        if kernel in done.counted:
            raise AssertionError(_too_much(total, group, kernel))


def _too_much(total: Work, group: str, kernel: str) -> str:
    return (
        f"{kernel}: expected at most {ALLOWED[group]:g} counted seconds of the host runner "
        f"in the {group} tests of one kernel but found {total.counted[kernel]:.1f}; "
        "make cases smaller, or mark some slow"
    )


def exceeded() -> list[str]:
    """A sentence for every kernel that has too much in all."""
    return [
        _too_much(total, group, kernel)
        for group, total in TOTALS.items()
        for kernel in total.over(ALLOWED[group])
    ]


def summary() -> list[str]:
    """For the end of a run: what each kernel took, and who has too much."""
    lines = [
        f"host runner, {group}: {kernel:16} {counted:6.2f} s counted of "
        f"{ALLOWED[group]:g}, {total.taken[kernel]:6.2f} s taken"
        for group, total in TOTALS.items()
        for kernel, counted in total.counted.most_common()
    ]
    return [*lines, *exceeded()]


def sent() -> dict[str, list[dict[str, float]]]:
    """TOTALS in plain values, for the process that `add_sent` adds them up in."""
    return {group: [dict(one.counted), dict(one.taken)] for group, one in TOTALS.items()}


def add_sent(totals: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """What another process of this run counted."""
    for group, (counted, taken) in totals.items():
        for kernel, seconds in counted.items():
            TOTALS[group].add(kernel, seconds, taken[kernel])
