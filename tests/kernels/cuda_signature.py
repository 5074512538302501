"""The CUDA source that MLX 0.32.4 hands to NVRTC for a kernel's text, and what launches ask for.

MLX builds it only where there is a GPU, so its builder is mirrored here: includes, header, inputs
as pointers with the shapes that the body mentions, outputs, template values as constants.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from metal_kernels import sources
from tests.metalhost.cuda import TYPES

UTILS = "mlx/backend/cuda/device/utils.cuh"
# What a kernel can see of MLX's header: its includes, the types of shapes, and the names it takes
# in the kernel's namespace, where they hide functions of ours.
UTILS_TEXT = """#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda/std/array>
#include <cuda/std/complex>
#include <cuda/std/limits>
#include <cuda/std/tuple>
#define MAX_NDIM 10
#define WARP_SIZE 32
namespace mlx::core::cu {
using Shape = cuda::std::array<int32_t, MAX_NDIM>;
using Strides = cuda::std::array<int64_t, MAX_NDIM>;
struct Taken {};
""" + "".join(
    f"inline constexpr Taken {name};\n"
    for name in (
        *("AlignedVector", "Limits", "LoopedElemToLoc", "complex_t", "complex64_t"),
        *("complex128_t", "is_complex", "is_complex_v"),
        *("is_aligned", "load_vector", "unsafe_load_vector", "store_vector"),
        *("unsafe_store_vector", "elem_to_loc", "elem_to_loc_nd"),
    )
) + "}\n"  # fmt: skip

_INCLUDES = f'\n#include "{UTILS}"\n\n#include <cooperative_groups.h>\n\n'
_NAMESPACE = "namespace mlx::core::cu {\n\nnamespace cg = cooperative_groups;\n\n"
_END = "\n}\n\n} // namespace mlx::core::cu\n"


@dataclass(frozen=True)
class Launch:
    """One call of a text; two are the same kernel if all but the sizes agree."""

    name: str
    inputs: tuple[tuple[str, mx.Dtype, int], ...]  # name, dtype, dimensions
    outputs: tuple[tuple[str, mx.Dtype], ...]
    template: tuple[tuple[str, Any], ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]

    @classmethod
    def of(cls, name: str, inputs: Sequence[str], outputs: Sequence[str], call: Any) -> "Launch":
        """From the names of a text's parameters and the arguments of the call."""
        arrays = zip(inputs, call["inputs"], strict=True)
        return cls(
            name,
            tuple((n, array.dtype, array.ndim) for n, array in arrays),
            tuple(zip(outputs, call["output_dtypes"], strict=True)),
            tuple(call["template"]),
            call["grid"],
            call["threadgroup"],
        )

    @property
    def variant(self) -> tuple[Any, ...]:
        return self.name, self.inputs, self.outputs, self.template

    @property
    def threads(self) -> int:
        """Threads of a block: MLX makes none larger than the grid."""
        x, y, z = map(min, self.threadgroup, self.grid)
        return x * y * z


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of running them; their outputs are zeros."""
    launches: list[Launch] = []

    def built(backend: str, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        def call(**call: Any) -> list[mx.array]:
            launches.append(Launch.of(name, inputs, outputs, call))
            shapes = zip(call["output_shapes"], call["output_dtypes"], strict=True)
            return [mx.zeros(shape, dtype) for shape, dtype in shapes]

        return call

    with building(built):
        yield launches


@contextmanager
def building(built: Callable[..., Any]) -> Iterator[None]:
    """Let launches call what `built` makes of a text."""
    own = sources.built
    sources.built = built
    try:
        yield
    finally:
        sources.built = own


def cuda_source(launches: Iterable[Launch]) -> str:
    """One source with a kernel `variant_<i>` for each launch of one text."""
    launches = list(launches)
    header, body = sources.text("cuda", launches[0].name)
    kernels = [_kernel(f"variant_{i}", body, launch) for i, launch in enumerate(launches)]
    return _INCLUDES + header + "".join(kernels)


def _kernel(function: str, body: str, launch: Launch) -> str:
    body = sources.scalars(tuple(name for name, _, _ in launch.inputs)) + body
    parameters = [p for given in launch.inputs for p in _input(body, *given)]
    parameters += [f"{TYPES[dtype]}* {name}" for name, dtype in launch.outputs]
    declared = ",\n    ".join(parameters)
    signature = f"__global__ void {function}(\n    {declared}) {{\n"
    return _NAMESPACE + signature + _constants(dict(launch.template)) + "\n" + body + _END


def _input(body: str, name: str, dtype: mx.Dtype, dimensions: int) -> list[str]:
    found = [f"const {TYPES[dtype]}* {name}"]
    kinds = {"shape": "Shape", "strides": "Strides", "ndim": "int"}
    for suffix, kind in kinds.items():
        if f"{name}_{suffix}" in body:
            # MLX passes these of an input without dimensions too, but declares none of them.
            assert dimensions, f"{name}_{suffix}: {name} has no dimensions"
            found.append(f"const __grid_constant__ {kind} {name}_{suffix}")
    return found


def _constants(template: Mapping[str, Any]) -> str:
    lines = []
    for name, value in template.items():
        if isinstance(value, mx.Dtype):
            lines.append(f"  using {name} = {TYPES[value]};\n")
        else:
            kind = "bool" if isinstance(value, bool) else "int"
            lines.append(f"  constexpr {kind} {name} = {str(value).lower()};\n")
    return "".join(lines)
