"""What Metal leaves to the compiler and the GPU: subnormal numbers and fused multiply-adds."""

import mlx.core as mx
import numpy as np
import pytest

from tests.metalhost import MetalHostError
from tests.metalhost.tests.support import launch, values

pytestmark = pytest.mark.needs("metalhost")

BOTH = pytest.mark.parametrize("mode", ["checked", "fast"])
SUBNORMAL = 1e-39
A = {"a": mx.array([SUBNORMAL, 2.0**-126, 0.5, 1.0])}
NUMBERS = ("a[0] * a[3]", "a[1] * a[2]", "a[0] == 0.0f", "a[0] + a[0]", "a[1] * a[3]")


def results(mode: str, *expressions: str, inputs: dict | None = None, **how: bool) -> list[float]:
    lines = [f"out[{n}] = {expression};" for n, expression in enumerate(expressions)]
    outputs = {"out": ((len(lines),), mx.float32)}
    (out,) = launch("\n".join(lines), inputs or A, outputs, threads=1, mode=mode, **how)
    return values(out).tolist()


@BOTH
def test_subnormal_numbers_are_kept_by_default(mode):
    small = np.float32(SUBNORMAL)
    assert results(mode, *NUMBERS) == [small, 2.0**-127, 0, 2 * small, 2.0**-126]


@BOTH
def test_subnormal_operands_and_results_are_zero_where_flushed(mode):
    assert results(mode, *NUMBERS, flushed=True) == [0, 0, 1, 0, 2.0**-126]


def test_a_flushed_launch_leaves_the_processor_as_it_was():
    results("fast", "a[0] * a[3]", flushed=True)
    assert (np.array([SUBNORMAL], np.float32) * np.float32(0.5))[0] > 0
    assert results("fast", "a[0] * a[3]") == [np.float32(SUBNORMAL)]


def test_a_flushed_launch_that_fails_does_too():
    with pytest.raises(MetalHostError, match="out of bounds"):
        results("checked", "a[5]", flushed=True)
    assert (np.array([SUBNORMAL], np.float32) * np.float32(0.5))[0] > 0


@BOTH
def test_products_and_sums_round_apart_unless_fused(mode):
    """(1 + 2^-12)^2 - 1 - 2^-11 is 2^-24, of which a rounded product leaves nothing."""
    inputs = {"x": mx.array([1 + 2.0**-12, -1 - 2.0**-11])}
    expression = "x[0] * x[0] + x[1]"
    assert results(mode, expression, inputs=inputs) == [0]
    assert results(mode, expression, inputs=inputs, fused=True) == [2.0**-24]


def test_a_product_of_its_own_is_rounded_in_both():
    inputs = {"x": mx.array([1 + 2.0**-12])}
    found = [results("fast", "x[0] * x[0]", inputs=inputs, fused=fused) for fused in (False, True)]
    assert found[0] == found[1] == [1 + 2.0**-11]
