"""The work of every kernel's tests is counted and bounded."""

from collections.abc import Iterator

import pytest

from tests.kernels.runner_work import TOTALS, charge, counting


@pytest.fixture(autouse=True)
def _work(request: pytest.FixtureRequest) -> Iterator[None]:
    long = any(request.node.get_closest_marker(name) for name in ("slow", "soak"))
    group = "slow" if long else "plain"
    with counting() as done:
        yield
    charge(TOTALS[group], group, done)
