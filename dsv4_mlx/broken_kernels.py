"""An error of MLX on a GPU as one sentence: which kernel it is about, and how to go on without.

Nothing falls back by itself. The sentence gives the command line that does.
"""

from collections.abc import Callable

from dsv4_mlx.errors import KernelError
from dsv4_mlx.warm_up import Shapes, session_launches
from metal_kernels.diagnosis import Broken, broken, users
from metal_kernels.registry import KernelPlan

# What MLX and the compilers write of a text that does not build or a launch that is refused; and
# what is about memory, which no kernel is to blame for.
_MARKS = ("unable to", "compil", "kernel", "thread group", "threadgroup", "command buffer", "nvrtc")
_MEMORY = ("malloc", "memory", "resource limit")
_MOST = 300


def diagnosis(shapes: Shapes) -> Callable[[BaseException], None]:
    """What raises a KernelError for an error of a model of these shapes, where one is to blame."""

    def explain(error: BaseException) -> None:
        plan = shapes.kernels
        if plan.backend == "cpu" or not is_about_kernels(error):
            return
        found = broken(session_launches(shapes.blank()).values(), plan.backend)
        raise KernelError(sentence(plan, found, str(error))) from error

    return explain


def is_about_kernels(error: BaseException) -> bool:
    """Whether MLX raised it for a text or a launch."""
    text = str(error).lower()
    if not isinstance(error, RuntimeError | ValueError) or any(word in text for word in _MEMORY):
        return False
    return any(mark in text for mark in _MARKS)


def sentence(plan: KernelPlan, found: list[Broken], said: str) -> str:
    """The kernels that fail alone, and what to do."""
    if not found:
        return (
            f"MLX failed on {plan.backend} ({first_line(said)}) and each kernel runs alone; "
            "`dsv4-chat --no-compile` replays no graph, and `make report` tests everything and "
            "writes what to send."
        )
    first = found[0]
    names = dict.fromkeys(name for one in found for name in users(one.variant.text, plan.backend))
    left_out = ",".join(f"-{name}" for name in (*plan.left_out, *names))
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"the kernel {' and '.join(names)} does not run here: {first.variant}{more} "
        f"({first_line(first.said)}); `dsv4-chat --kernels {plan.backend},{left_out}` goes on with "
        "its reference, slower, and `make report` writes what to send."
    )


def first_line(said: str) -> str:
    """What a compiler says first of an error, else the first line, in one line of some length."""
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    line = (errors or lines or ["it did not say why"])[0]
    return line if len(line) <= _MOST else line[:_MOST] + "…"
