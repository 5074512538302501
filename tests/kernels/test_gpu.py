"""Every declared case on this machine's GPU, where it has one: the real compiler, the real grid.

The same comparison as on the CPU (test_metal_texts.py), here with the grid, the registers and the
arithmetic of the machine itself. Skipped, and counted as such, where there is no GPU.
"""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from metal_kernels.contract import Case, Kernel
from metal_kernels.registry import KernelPlan, kernels, plan
from tests.kernels.compare import assert_matches

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
    assert_equals_reference(on_gpu, kernel, case)


def assert_equals_reference(own: KernelPlan, kernel: Kernel, case: Case) -> None:
    arguments = case.make(7)
    mx.eval([value for value in arguments.values() if isinstance(value, mx.array)])
    found = getattr(own.ops, kernel.name)(**arguments)
    mx.eval(found)
    with mx.stream(mx.cpu):
        expected = kernel.reference(**arguments)
        mx.eval(expected)
        assert_matches(kernel, found, expected, case=case.id, arguments=arguments)


def test_the_comparison_runs_without_a_gpu_too() -> None:
    """Of references with themselves, so that nothing but the GPU is new where there is one."""
    kernel = kernels()["q_prepare"]
    assert_equals_reference(plan("cpu"), kernel, kernel.cases[1])
