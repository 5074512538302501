"""Metal has many functions in two qualities, precise and fast. Texts say which one they mean.

MLX 0.32.4 asks Metal for safe arithmetic but not for precise functions, so from macOS 15 on a call
that does not say gets Metal's default, the fast function: log(x) near 1 is then good to 2^-21 and
no better, and a max with NaN is anything.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from metal_kernels import sources
from metal_kernels.registry import kernels
from tests.kernels.cuda_signature import building
from tests.metalhost import MetalHostError, checking, metal_kernel

ONE = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "cospi", "exp", "exp10"),
    *("exp2", "log", "log10", "log2", "rsqrt", "saturate", "sin", "sinh", "sinpi", "sqrt", "tan"),
    "tanh",
)
TWO = ("atan2", "fdim", "fmax", "fmin", "fmod", "max", "min", "pow", "powr")
# Rivals of Metal's functions: a call that names no quality could mean either, and does not compile.
RIVALS = (
    "".join(f"float {name}(float);\n" for name in ONE)
    + "".join(f"float {name}(float, float);\n" for name in TWO)
    + "float clamp(float, float, float);\n"
)


def among_rivals(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    header, body = sources.text("metal", name)
    return metal_kernel(
        name=name,
        input_names=[n.removesuffix(sources.SCALAR[2:]) for n in inputs],
        output_names=list(outputs),
        header=RIVALS + header,
        source=body,
    )


def test_every_text_names_the_quality_of_its_functions() -> None:
    """The first launch of each text, so that it compiles; the other launches give zeros."""
    seen: set[Path] = set()

    def built(backend: str, name: str, *names: tuple[str, ...]) -> Callable[..., list[mx.array]]:
        path = sources.path("metal", name)
        if path in seen:
            return zeros
        seen.add(path)
        return among_rivals(name, *names)

    with building(built), checking(mode="fast"):
        for kernel in kernels().values():
            for launch in kernel.implementations.values():
                for case in kernel.cases:
                    launch(**case.make(0))
    assert seen == set(sources.ROOT.glob("*/*.metal"))


def zeros(*, output_shapes: list, output_dtypes: list, **_: object) -> list[mx.array]:
    """Outputs of a launch that does nothing."""
    return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]


def run(expression: str) -> float:
    kernel = metal_kernel(
        name="quality", input_names=["x"], output_names=["out"], header=RIVALS,
        source=f"out[thread_position_in_grid.x] = {expression};",
    )  # fmt: skip
    launch: dict[str, Any] = {"grid": (1, 1, 1), "threadgroup": (1, 1, 1)}
    (found,) = kernel(
        inputs=[mx.ones((1,))], output_shapes=[(1,)], output_dtypes=[mx.float32], **launch
    )
    return found.item()


@pytest.mark.parametrize("call", ["log(x[0])", "max(x[0], 2.0f)", "clamp(x[0], 2.0f, 3.0f)"])
def test_a_call_without_a_quality_is_refused(call: str) -> None:
    with pytest.raises(MetalHostError, match="ambiguous"):
        run(call)


def test_a_call_with_a_quality_or_of_integers_is_not() -> None:
    assert run("precise::log(x[0]) + precise::max(x[0], 2.0f) + max(1, 2)") == 4.0
