"""One kernel: right or wrong on every case, its first calls, and how fast it is."""

from typing import Any

import mlx.core as mx

from benchmarks import kernels
from benchmarks.report.setting import Setting
from benchmarks.report.sizes import Sizes
from benchmarks.report.teller import Teller
from benchmarks.report.variants import recorded
from metal_kernels import registry
from metal_kernels.contract import Case, Kernel
from metal_kernels.registry import KernelPlan
from tests.kernels.compare import assert_equals_reference


def run(teller: Teller, setting: Setting) -> None:
    """Rows `case` and `variant` of the kernels that are named, then rows `timing` of the right."""
    plan = registry.plan(setting.backend)
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    for name in setting.choices:
        if compared(teller, plan, registry.kernels()[name]):
            timed(teller, plan, name, setting.sizes)


def run_again(teller: Teller, setting: Setting) -> None:
    """Rows `variant` alone: what a second start pays for the same first calls."""
    plan = registry.plan(setting.backend)
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    with recorded(teller):
        for name in setting.choices:
            for case in registry.kernels()[name].cases:
                operation = getattr(plan.ops, name)
                teller.tried(f"{name} [{case.id}]", lambda o=operation, c=case: _evaluate(o, c))


def _evaluate(operation: Any, case: Case) -> None:
    mx.eval(operation(**case.make(0)))


def compared(teller: Teller, plan: KernelPlan, kernel: Kernel) -> bool:
    """Compare every case with the reference on the CPU; whether all agree."""
    operation, wrong = getattr(plan.ops, kernel.name), 0

    def compare(case: Case) -> None:
        error = assert_equals_reference(kernel, operation, case)
        teller.row("case", kernel=kernel.name, case=case.id, largest_error=error)

    with recorded(teller):
        for case in kernel.cases:
            wrong += not teller.tried(f"{kernel.name} [{case.id}]", lambda c=case: compare(c))
    return not wrong


def timed(teller: Teller, plan: KernelPlan, name: str, sizes: Sizes) -> None:
    """Time a kernel, against the least bytes and operations that its sizes need."""
    teller.at(f"{name}, timing")
    for row in kernels.rows(plan.backend, [name], sizes.rounds, small=sizes.small_kernels):
        teller.row("timing", **row)
