"""Operations that MLX would not trace as the one node that they are on Metal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

STAND_IN = "mlx_"
"""Stand-ins are custom kernels `mlx_<primitive>`, traced as `custom_kernel_mlx_<primitive>_...`."""


@contextmanager
def one_node_each() -> Iterator[None]:
    """Within, operations that MLX runs as one on Metal trace as one node each.

    Where there is no Metal MLX takes `mx.fast.rms_norm` and `mx.fast.rope` apart, and it cannot
    export `mx.contiguous`, `mx.to_fp8`, `mx.from_fp8` and `mx.dequantize` of FP8 at all. Attention
    in shapes that Metal has a kernel for is one node; other shapes are taken apart on Metal as
    well. CUDA kernels, which MLX only makes where there is CUDA, trace like Metal ones.
    """
    replaced: dict[tuple[Any, str], Callable[..., Any]] = {
        (mx.fast, "rms_norm"): lambda x, weight, eps, **_: _node("RMSNorm", [x, weight]),
        (mx.fast, "layer_norm"): lambda x, w, b, eps, **_: _node("LayerNorm", [x, w, b]),
        (mx.fast, "rope"): _rope,
        (mx.fast, "scaled_dot_product_attention"): _attention(mx.fast.scaled_dot_product_attention),
        (mx, "contiguous"): lambda x, *_, **__: _node("Contiguous", [x]),
        (mx, "to_fp8"): lambda x, **_: _node("ToFP8", [x], mx.uint8),
        (mx, "dequantize"): _dequantize(mx.dequantize),
        (mx, "from_fp8"): lambda x, dtype=mx.bfloat16, **_: _node("FromFP8", [x], dtype),
    }
    if not mx.cuda.is_available():
        replaced[mx.fast, "cuda_kernel"] = _cuda_kernel
    kept = {place: getattr(*place) for place in replaced}
    try:
        for (module, name), replacement in replaced.items():
            setattr(module, name, replacement)
        yield
    finally:
        for (module, name), original in kept.items():
            setattr(module, name, original)


def stand_in(
    name: str, inputs: Sequence[mx.array], outputs: Sequence[tuple[Sequence[int], mx.Dtype]]
) -> list[mx.array]:
    """One traced node `CustomKernel` called `custom_kernel_mlx_<name>__...` with these outputs."""
    names = [f"in{number}" for number in range(len(inputs))]
    kernel: Any = mx.fast.metal_kernel(
        name=f"{STAND_IN}{name}_",
        input_names=names,
        output_names=[f"out{number}" for number in range(len(outputs))],
        source=f"// MLX's own {name}",
        ensure_row_contiguous=False,
    )
    outputs_of: list[mx.array] = kernel(
        inputs=list(inputs),
        output_shapes=[tuple(shape) for shape, _ in outputs],
        output_dtypes=[dtype for _, dtype in outputs],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
    )
    return outputs_of


def _node(name: str, inputs: Sequence[mx.array | None], dtype: mx.Dtype | None = None) -> mx.array:
    """A stand-in whose output is like the first input."""
    present = [one for one in inputs if one is not None]
    return stand_in(name, present, [(present[0].shape, dtype or present[0].dtype)])[0]


def _dequantize(taken_apart: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def dequantize(w: mx.array, *arrays: Any, **options: Any) -> mx.array:
        if options.get("mode") != "mxfp8":
            return taken_apart(w, *arrays, **options)
        present = [w, *(one for one in arrays if one is not None)]
        shape = (*w.shape[:-1], 4 * w.shape[-1])
        return stand_in("Dequantize", present, [(shape, options.get("dtype") or mx.bfloat16)])[0]

    return dequantize


def _cuda_kernel(
    name: str, input_names: Sequence[str], output_names: Sequence[str], source: str, **_: Any
) -> Any:
    return mx.fast.metal_kernel(
        name=name, input_names=input_names, output_names=output_names, source=source
    )


def _rope(
    x: mx.array,
    dims: int,
    *,
    offset: int | mx.array = 0,
    freqs: mx.array | None = None,
    **_: Any,
) -> mx.array:
    return _node("RoPE", [x, offset if isinstance(offset, mx.array) else None, freqs])


_VECTOR_WIDTHS = (64, 96, 128, 192, 256)


def _attention(taken_apart: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def attention(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
        H, L, D = q.shape[1:]
        if D in _VECTOR_WIDTHS and L * (H // k.shape[1]) <= 32 and k.shape[2] >= L:
            shape = (*q.shape[:-1], v.shape[-1])
            return stand_in("ScaledDotProductAttention", [q, k, v], [(shape, q.dtype)])[0]
        return taken_apart(q, k, v, **options)

    return attention
