"""Every declared case on this machine's GPU, where it has one: the real compiler, the real grid.

The same comparison as on the CPU (test_metal_texts.py), here with the grid, the registers and the
arithmetic of the machine itself. Skipped, and counted as such, where there is no GPU.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest

from metal_kernels.contract import Case, Kernel
from metal_kernels.registry import KernelPlan, kernels, plan
from tests.kernels.compare import assert_equals_reference

GPUS = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("metal", "cuda")]
CASES = [
    pytest.param(kernel, case, id=f"{kernel.name}-{case.id}")
    for kernel in kernels().values()
    for case in kernel.cases
]


@pytest.fixture(params=GPUS)
def on_gpu(request: pytest.FixtureRequest) -> Iterator[KernelPlan]:
    before = mx.default_device()
    mx.set_default_device(mx.gpu)
    yield plan(request.param)
    mx.set_default_device(before)


@pytest.mark.parametrize(("kernel", "case"), CASES)
def test_kernel_equals_its_reference(on_gpu: KernelPlan, kernel: Kernel, case: Case) -> None:
    assert_equals_reference(kernel, getattr(on_gpu.ops, kernel.name), case, seed=7)


def test_the_comparison_runs_without_a_gpu_too() -> None:
    """Of a reference with itself, and with one that is off by a thousandth."""
    kernel = kernels()["swiglu"]
    assert_equals_reference(kernel, kernel.reference, kernel.cases[1])

    def off(**arguments: Any) -> mx.array:
        return 1.001 * kernel.reference(**arguments)

    with pytest.raises(AssertionError, match=r"swiglu\[one-row\]"):
        assert_equals_reference(kernel, off, kernel.cases[1])
