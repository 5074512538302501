"""The work of every kernel's tests is counted, bounded, and printed at the end."""

from collections.abc import Iterator

import pytest

from tests.kernels.runner_work import ALLOWED, Work, charge, counting

TOTALS = {group: Work() for group in ALLOWED}


@pytest.fixture(autouse=True)
def _work(request: pytest.FixtureRequest) -> Iterator[None]:
    group = "slow" if request.node.get_closest_marker("slow") else "plain"
    with counting() as done:
        yield
    charge(TOTALS[group], group, done)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for group, total in TOTALS.items():
        for kernel, counted in total.counted.most_common():
            terminalreporter.write_line(
                f"host runner, {group}: {kernel:16} {counted:6.2f} s counted of "
                f"{ALLOWED[group]:g}, {total.taken[kernel]:6.2f} s taken"
            )
