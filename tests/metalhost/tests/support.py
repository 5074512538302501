"""One call from a kernel text to numpy arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from tests.metalhost import checking, metal_kernel


def launch(
    source: str,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, tuple[Sequence[int], mx.Dtype]] | None = None,
    *,
    threads: int | tuple[int, int, int] = 32,
    group: int | tuple[int, int, int] | None = None,
    mode: str = "checked",
    order: str | int = "ascending",
    **options: Any,
) -> list[mx.array]:
    """Run a text; by default one threadgroup of `threads` and a float output `out` of that size."""
    grid = threads if isinstance(threads, tuple) else (threads, 1, 1)
    group = grid if group is None else group if isinstance(group, tuple) else (group, 1, 1)
    outputs = outputs or {"out": (grid, mx.float32)}
    inputs = inputs or {}
    call = {k: options.pop(k) for k in ("template", "init_value") if k in options}
    how = {k: options.pop(k) for k in ("flushed", "fused", "qualities") if k in options}
    names = {"input_names": list(inputs), "output_names": list(outputs)}
    kernel = metal_kernel(name="test", source=source, **names, **options)
    with checking(mode, order, **how):
        return kernel(
            inputs=list(inputs.values()),
            output_shapes=[shape for shape, _ in outputs.values()],
            output_dtypes=[dtype for _, dtype in outputs.values()],
            grid=grid,
            threadgroup=group,
            **call,
        )


def values(array: mx.array) -> np.ndarray:
    """As numpy; bfloat16 becomes float32."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)


def numbers(shape: Sequence[int], dtype: mx.Dtype, seed: int = 0) -> mx.array:
    """Random values of a dtype; integers over their whole range."""
    rng = np.random.default_rng(seed)
    if mx.issubdtype(dtype, mx.floating):
        return mx.array(rng.normal(size=shape).astype(np.float32)).astype(dtype)
    kind = np.dtype(str(dtype).removeprefix("mlx.core."))
    limits = np.iinfo(kind)
    return mx.array(rng.integers(limits.min, limits.max, shape, kind, endpoint=True))
