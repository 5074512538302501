"""The forms in which kernel texts are compiled: recorded from a computation, and built ahead.

MLX compiles a text anew for other template values, other dtypes of inputs, and where an input has
fewer than eight elements, which then lies in another address space; that takes a GPU's compiler 0.1
seconds and more, once per process.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx

from metal_kernels import sources
from metal_kernels.backend import Backend
from metal_kernels.sources import Template

_CONSTANT_SPACE = 8
"""Elements from which an input is no constant of Metal's."""


@dataclass(frozen=True)
class Variant:
    """What the compiler sees of a launch."""

    text: str
    template: tuple[tuple[str, Template], ...]
    inputs: tuple[tuple[str, mx.Dtype, bool], ...]
    """Name, dtype, and whether it lies in the constant address space."""
    outputs: tuple[tuple[str, mx.Dtype], ...]

    def __str__(self) -> str:
        values = ", ".join(f"{name} {_shown(value)}" for name, value in self.template)
        arrays = ", ".join(
            f"{name} {_shown(dtype)}{' constant' if constant else ''}"
            for name, dtype, constant in self.inputs
        )
        return f"{self.text}: {values}; {arrays}"


@dataclass(frozen=True)
class Launched:
    """One launch of a variant: enough to repeat it on zeros."""

    variant: Variant
    numbers: dict[str, mx.array]
    """The inputs without dimensions."""
    shapes: dict[str, tuple[int, ...]]
    output_shapes: tuple[tuple[int, ...], ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of inputs and outputs."""
        inputs = sum(
            prod(self.shapes[name]) * dtype.size
            for name, dtype, _ in self.variant.inputs
            if name in self.shapes
        )
        outputs = zip(self.output_shapes, self.variant.outputs, strict=True)
        return inputs + sum(prod(shape) * dtype.size for shape, (_, dtype) in outputs)

    def build(self, backend: Backend) -> None:
        """Compile the variant by repeating its launch; raises what MLX raises."""
        variant = self.variant
        arrays = {
            name: self.numbers[name] if name in self.numbers else mx.zeros(self.shapes[name], dtype)
            for name, dtype, _ in variant.inputs
        }
        kernel = sources.built(
            backend,
            variant.text,
            sources.parameters(backend, arrays),
            tuple(name for name, _ in variant.outputs),
        )
        results = kernel(
            inputs=list(arrays.values()),
            output_shapes=list(self.output_shapes),
            output_dtypes=[dtype for _, dtype in variant.outputs],
            grid=self.grid,
            threadgroup=self.threadgroup,
            template=list(variant.template),
        )
        mx.eval(results)


@contextmanager
def recording() -> Iterator[dict[Variant, Launched]]:
    """Inside, launches of this thread compute nothing: they are noted, and their outputs are zeros.

    Of the launches of one variant the one of the fewest bytes is kept.
    """
    seen: dict[Variant, Launched] = {}

    def builder(
        backend: str, text: str, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> Callable[..., list[mx.array]]:
        suffix = sources.SCALAR.format("")
        names = [name.removesuffix(suffix) for name in inputs]

        def noted(
            *,
            inputs: Sequence[mx.array],
            output_shapes: Sequence[tuple[int, ...]],
            output_dtypes: Sequence[mx.Dtype],
            grid: tuple[int, int, int],
            threadgroup: tuple[int, int, int],
            template: Sequence[tuple[str, Template]],
        ) -> list[mx.array]:
            arrays = dict(zip(names, inputs, strict=True))
            variant = Variant(
                text,
                tuple(template),
                tuple((n, a.dtype, a.size < _CONSTANT_SPACE) for n, a in arrays.items()),
                tuple(zip(outputs, output_dtypes, strict=True)),
            )
            launched = Launched(
                variant,
                {name: array for name, array in arrays.items() if not array.ndim},
                {name: array.shape for name, array in arrays.items() if array.ndim},
                tuple(tuple(shape) for shape in output_shapes),
                grid,
                threadgroup,
            )
            earlier = seen.get(variant)
            if earlier is None or launched.nbytes < earlier.nbytes:
                seen[variant] = launched
            pairs = zip(output_shapes, output_dtypes, strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in pairs]

        return noted

    token = sources.builder.set(builder)
    try:
        yield seen
    finally:
        sources.builder.reset(token)


def _shown(value: Any) -> str:
    return str(value).removeprefix("mlx.core.")
