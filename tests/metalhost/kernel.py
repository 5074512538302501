"""`metal_kernel`: the call of `mx.fast.metal_kernel`, run on the CPU."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .build import How, kernel_object
from .launch import Buffer, Counts, Order, module, run
from .rules import refuse_before_compiling
from .text import KernelText, traced

MAX_THREADS = 1024
MOST_THREADS = 2**29  # that records of accesses tell apart
# Bound here: callers may put `metal_kernel` in its place.
MLX_KERNEL = mx.fast.metal_kernel


@dataclass(frozen=True)
class Checking:
    mode: str = "checked"
    order: str | int = "ascending"
    flushed: bool = False
    fused: bool = False
    qualities: bool = False


DEFAULT = Checking()
CHECKING: ContextVar[Checking] = ContextVar("metalhost_checking", default=DEFAULT)


@contextlib.contextmanager
def checking(
    mode: str = "checked",
    order: str | int = "ascending",
    *,
    flushed: bool = False,
    fused: bool = False,
    qualities: bool = False,
) -> Iterator[None]:
    """How launches inside run: all checks or none, and in which order threads take turns.

    What Metal leaves open: with `flushed` subnormal numbers are zero, with `fused` products and
    sums become fused multiply-adds. `qualities` refuses calls of functions that Metal has as
    precise and as fast ones where a call names neither.
    """
    if mode not in ("checked", "fast"):
        raise ValueError(f"mode is 'checked' or 'fast', not {mode!r}")
    Order.of(order)
    token = CHECKING.set(Checking(mode, order, flushed, fused, qualities))
    try:
        yield
    finally:
        CHECKING.reset(token)


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: object | None = None,
) -> "HostKernel":
    """What `mx.fast.metal_kernel` returns, for this machine."""
    del compile_options  # the host's arithmetic is always the safe one
    return HostKernel(
        name, tuple(input_names), tuple(output_names), source, header, ensure_row_contiguous,
        atomic_outputs,
    )  # fmt: skip


class HostKernel:
    """A kernel text; a call runs it and returns mx.arrays."""

    language = "metal"

    def __init__(
        self,
        name: str,
        input_names: tuple[str, ...],
        output_names: tuple[str, ...],
        source: str,
        header: str,
        ensure_row_contiguous: bool,
        atomic_outputs: bool = False,
    ) -> None:
        self.name = name
        self.input_names = input_names
        self.output_names = output_names
        self.source = source
        self.header = header
        self.ensure_row_contiguous = ensure_row_contiguous
        self.atomic_outputs = atomic_outputs
        self.counts: Counts | None = None
        """The work of the last launch."""
        self._texts: dict[Any, KernelText] = {}

    def __call__(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Sequence[tuple[str, Any]] | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        del stream
        shape = self._launch_shape(grid, threadgroup)
        arrays = [self._prepared(value) for value in inputs]
        call: dict[str, Any] = dict(
            output_shapes=[tuple(s) for s in output_shapes], output_dtypes=list(output_dtypes),
            grid=grid, threadgroup=threadgroup, template=list(template or []),
            init_value=init_value,
        )  # fmt: skip
        text = self._text(arrays, call)
        how = CHECKING.get()
        checked = how.mode == "checked"
        program = text.program(how.qualities)
        if verbose:
            print(program)
        kernel = module(kernel_object(program, How(checked, how.fused), self.language))
        keep, buffers = self._buffers(text, arrays, call)
        order = Order.of(how.order)
        found, self.counts = run(kernel, text, buffers, shape, order, checked, how.flushed)
        del keep
        outputs = zip(found, call["output_shapes"], output_dtypes, strict=True)
        return [_array(data, shape, dtype) for data, shape, dtype in outputs]

    def _prepared(self, value: Any) -> mx.array:
        array = value if isinstance(value, mx.array) else mx.array(value)
        if self.ensure_row_contiguous:
            array = mx.contiguous(array)
        mx.eval(array)
        return array

    def _text(self, arrays: list[mx.array], call: dict[str, Any]) -> KernelText:
        key = (
            tuple((a.dtype, a.ndim == 0, a.size < 8) for a in arrays),
            tuple(call["output_dtypes"]),
            tuple((n, str(v), type(v)) for n, v in call["template"]),
        )
        if key not in self._texts:
            kernel = MLX_KERNEL(
                name=self.name, input_names=list(self.input_names),
                output_names=list(self.output_names), source=self.source, header=self.header,
                ensure_row_contiguous=self.ensure_row_contiguous,
                atomic_outputs=self.atomic_outputs,
            )  # fmt: skip
            text = traced(kernel, self.header, self.source, arrays, call)
            refuse_before_compiling(text)
            self._texts[key] = text
        return self._texts[key]

    def _buffers(
        self, text: KernelText, arrays: list[mx.array], call: dict[str, Any]
    ) -> tuple[list[Any], list[Buffer]]:
        """Buffers in the order of the signature, and what must outlive them."""
        views = {n: _view(a) for n, a in zip(self.input_names, arrays, strict=True)}
        outputs = {
            n: (tuple(s), d)
            for n, s, d in zip(
                self.output_names, call["output_shapes"], call["output_dtypes"], strict=True
            )
        }
        keep: list[Any] = list(views.values())
        buffers = []
        for parameter in text.buffers:
            if parameter.name in outputs:
                data = _initial(*outputs[parameter.name], call["init_value"])
                size = math.prod(outputs[parameter.name][0]) * outputs[parameter.name][1].size
                address = None if data is None else data.ctypes.data
                buffers.append(Buffer(parameter.name, size, address, writable=True))
            else:
                data = self._input_data(parameter.name, views)
                low, size = _extent(data)
                buffers.append(Buffer(parameter.name, size, low))
            keep.append(data)
        return keep, buffers

    def _launch_shape(self, grid: Sequence[int], threadgroup: Sequence[int]) -> list[int]:
        """Grid and threadgroup as MLX launches them: no threadgroup is wider than the grid."""
        shape = [*grid, *threadgroup]
        if len(shape) != 6 or min(shape) < 1:
            raise ValueError(
                f"grid {grid} and threadgroup {threadgroup} need three sizes from 1 up"
            )
        if math.prod(threadgroup) > MAX_THREADS:
            raise ValueError(f"threadgroup {threadgroup} has more than {MAX_THREADS} threads")
        group = [min(t, g) for t, g in zip(threadgroup, grid, strict=True)]
        if math.prod(-(-g // t) * t for g, t in zip(grid, group, strict=True)) >= MOST_THREADS:
            raise ValueError(f"grid {grid} has more than {MOST_THREADS} threads")
        return [*grid, *group]

    def _input_data(self, name: str, views: dict[str, np.ndarray]) -> np.ndarray:
        if name in views:
            return views[name]
        owner, _, fact = name.rpartition("_")
        return self._fact(fact, views[owner])

    def _fact(self, fact: str, view: np.ndarray) -> np.ndarray:
        """What the text reads as `<input>_shape`, `_strides` or `_ndim`."""
        if fact == "shape":
            return np.array(view.shape, np.int32)
        if fact == "strides":
            return np.array([s // view.itemsize for s in view.strides], np.int64)
        return np.array(view.ndim, np.int32)


def _view(array: mx.array) -> np.ndarray:
    """The array's own memory; numpy has no bfloat16, whose bits travel as uint16."""
    return np.asarray(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _extent(view: np.ndarray) -> tuple[int, int]:
    """Address and size of the memory that a view reaches, wherever its strides lead."""
    low, high = np.lib.array_utils.byte_bounds(view)
    return low, high - low if view.size else 0


def _initial(shape: tuple[int, ...], dtype: mx.Dtype, value: float | None) -> np.ndarray | None:
    if value is None:
        return None
    filled = mx.full(shape, value, dtype)
    mx.eval(filled)
    return _view(filled)


def _array(data: bytes, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    flat = mx.array(np.frombuffer(data, np.uint8))
    if not data:
        return mx.zeros(shape, dtype)
    return flat.view(dtype).reshape(shape)
