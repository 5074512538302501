"""The work of every kernel's tests is counted and bounded."""

from collections.abc import Iterator

import pytest

from tests.kernels.runner_work import TOTALS, charge, counting


@pytest.fixture(autouse=True)
def _work(request: pytest.FixtureRequest) -> Iterator[None]:
    group = "slow" if request.node.get_closest_marker("slow") else "plain"
    with counting() as done:
        yield
    charge(TOTALS[group], group, done)
