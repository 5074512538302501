"""What a decoded token's small kernels do one after the other on one core, as counts with bounds.

No clock and no GPU is at hand. But a threadgroup's barriers and the accesses of its busiest thread,
which wait for each other, are the same on every machine; docs/LOG.md has what they were before.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from metal_kernels.registry import kernels
from tests.kernels.host import host_plan, launched
from tests.kernels.selections import selected
from tests.metalhost.launch import Counts

pytestmark = pytest.mark.needs("metalhost")


def counted(run: Callable[[Any], object]) -> dict[str, Counts]:
    """The last launch of every text that `run` launches with a plan's ops, in checked mode."""
    with host_plan() as plan, launched() as launches:
        run(plan.ops)
    return {launch.text: launch.counts for launch in launches}


def of_size(kernel: str, number: int = 0) -> dict[str, Counts]:
    """The work of a declared size: 0 is one decoded token of Flash."""
    arguments = kernels()[kernel].sizes[number].case.make(0)
    return counted(lambda ops: getattr(ops, kernel)(**arguments))


@pytest.mark.parametrize("kernel", ["hc_pre", "hc_post_pre", "hc_head"])
def test_the_sums_of_a_mix_are_not_added_in_a_row(kernel: str) -> None:
    """A thread's share of 64 slices is two of them: what is left is its 8 channels of 4 streams."""
    found = of_size(kernel)["hc_head" if kernel == "hc_head" else "hc_collapse"]
    assert found.most_barriers == 2
    assert found.most_accesses <= 64


def scores(kind: str, T: int) -> mx.array:
    random = mx.random.normal((1, 1, T), key=mx.random.key(1))
    return {"random": random, "plateau": mx.maximum(random - 2.2, 0), "equal": 0 * random}[kind]


@pytest.mark.parametrize("kind", ["random", "plateau", "equal"])
@pytest.mark.parametrize("T", [2048, 16_384])
def test_a_selection_is_four_rounds_at_most(T: int, kind: str) -> None:
    """A barrier each, one before and one after them."""
    work = counted(lambda _: selected("metal", scores(kind, T), 512))
    assert work["index_select"].most_barriers <= 6


def test_keys_with_the_same_digits_are_counted_at_once() -> None:
    """Each of 256 threads has 8 keys, 32 places apart: equal ones are one addition to a bin, and
    where every other one has another first digit they are 8."""
    places = mx.arange(2048)[None, None]
    equal, alternating = (
        counted(lambda _, own=own: selected("metal", own.astype(mx.float32), 1500))["index_select"]
        for own in (mx.zeros_like(places), places // 32 % 2)
    )
    assert alternating.checked_accesses - equal.checked_accesses == 256 * (8 - 1)
