"""Where an array's elements lie, as MLX's views and kernels leave them: shape, strides, buffer.

Whether an operation hides a copy depends on this alone, so the counter follows it through the whole
graph. Strides count elements. `buffer` names the memory; views share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import mlx.core as mx


@dataclass(frozen=True)
class Layout:
    """One array: `buffer_bytes` is the size of the memory it is a view of."""

    shape: tuple[int, ...]
    dtype: mx.Dtype
    strides: tuple[int, ...]
    buffer: str
    buffer_bytes: int

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.size

    @property
    def extent(self) -> int:
        """Elements from the first to the last one in memory; 1 for a broadcast number."""
        if self.size == 0:
            return 0
        return 1 + sum((n - 1) * abs(s) for n, s in zip(self.shape, self.strides, strict=True))

    @property
    def contiguous(self) -> bool:
        """No holes and nothing repeated, in any order of the axes."""
        pairs = zip(self.shape, self.strides, strict=True)
        return prod(n for n, s in pairs if s) == self.extent

    @property
    def row_contiguous(self) -> bool:
        """Elements in the order of their indices; axes of size one do not matter."""
        return _in_order(self.shape, self.strides)

    @property
    def column_contiguous(self) -> bool:
        """Whether the elements lie in one run with the first axis fastest."""
        return _in_order(self.shape[::-1], self.strides[::-1])

    @property
    def is_matrix(self) -> bool:
        """The last two axes are the rows of a matrix without gaps; here size one does matter."""
        if len(self.shape) < 2:
            return self.strides in ((), (1,))
        return self.strides[-1] == 1 and self.strides[-2] == self.shape[-1]


def _in_order(shape: Sequence[int], strides: Sequence[int]) -> bool:
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and stride != expected:
            return False
        expected *= n
    return True


def standard_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a new array."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def fresh(name: str, shape: Sequence[int], dtype: mx.Dtype) -> Layout:
    """An array in memory of its own."""
    shape = tuple(shape)
    return Layout(shape, dtype, standard_strides(shape), name, prod(shape) * dtype.size)


def like(source: Layout, output: Layout) -> Layout:
    """`output` with the strides of an operand of the same shape."""
    return replace(output, strides=source.strides)


def view(source: Layout, output: Layout, strides: Sequence[int]) -> Layout:
    """`output` as a view of `source`."""
    buffer, size = source.buffer, source.buffer_bytes
    return replace(output, strides=tuple(strides), buffer=buffer, buffer_bytes=size)


def transposed(source: Layout, output: Layout, axes: Sequence[int]) -> Layout:
    return view(source, output, [source.strides[axis] for axis in axes])


def broadcast(source: Layout, output: Layout) -> Layout:
    """Repeated axes get stride 0."""
    missing = len(output.shape) - len(source.shape)
    strides = [0] * missing + [
        0 if n != wide else stride
        for n, wide, stride in zip(
            source.shape, output.shape[missing:], source.strides, strict=True
        )
    ]
    return view(source, output, strides)


def sliced(source: Layout, output: Layout, steps: Sequence[int]) -> Layout:
    strides = [stride * step for stride, step in zip(source.strides, steps, strict=True)]
    return view(source, output, strides)


def expanded(source: Layout, output: Layout, axes: Sequence[int]) -> Layout:
    """New axes of size one; MLX gives them stride 1, whatever lies inside them."""
    strides = list(source.strides)
    for axis in axes:
        strides.insert(axis, 1)
    return view(source, output, strides)


def squeezed(source: Layout, output: Layout, axes: Sequence[int]) -> Layout:
    gone = {axis % len(source.shape) for axis in axes}
    return view(source, output, [s for axis, s in enumerate(source.strides) if axis not in gone])


def reshaped(source: Layout, output: Layout) -> Layout | None:
    """The view that a reshape is, or None where it has to copy."""
    if source.size == 0 or source.row_contiguous:
        return view(source, output, standard_strides(output.shape))
    if not source.shape:
        return view(source, output, [0] * len(output.shape))
    shape, strides = _collapsed(source)
    found: list[int] = []
    axis = 0
    for n in output.shape:
        if axis < len(shape) and shape[axis] % n == 0:
            shape[axis] //= n
            found.append(shape[axis] * strides[axis])
            axis += shape[axis] <= 1
        elif n == 1:
            found.append(found[-1] if found else 0)
        else:
            return None
    return view(source, output, found)


def _collapsed(source: Layout) -> tuple[list[int], list[int]]:
    """Shape and strides with axes merged that are one run in memory, those of size one left out."""
    shape: list[int] = []
    strides: list[int] = []
    for n, stride in zip(source.shape, source.strides, strict=True):
        if n == 1:
            continue
        if shape and strides[-1] == n * stride:
            shape[-1] *= n
            strides[-1] = stride
        else:
            shape.append(n)
            strides.append(stride)
    return shape, strides
