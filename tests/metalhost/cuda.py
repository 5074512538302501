"""`cuda_kernel`: the call of `mx.fast.cuda_kernel`, run on the CPU under the same checks.

MLX writes the CUDA text only where there is a GPU, so what it writes is mirrored here: inputs as
pointers, 0-d ones too, the shapes that the body mentions, outputs, template values as constants.
Blocks are never cut off at the edge of the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .kernel import HostKernel
from .text import BODY_LINE, Parameter

DIMENSIONS = 10  # of MLX's Shape and Strides
TYPES = {
    mx.bool_: "bool",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.float32: "float",
    **{getattr(mx, f"{u}int{n}"): f"{u}int{n}_t" for u in ("", "u") for n in (8, 16, 32, 64)},
}


def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    shared_memory: int = 0,
) -> "CudaHostKernel":
    """What `mx.fast.cuda_kernel` returns, for this machine."""
    if shared_memory:
        raise ValueError("metalhost has no shared memory whose size is given at the launch")
    return CudaHostKernel(
        name, tuple(input_names), tuple(output_names), source, header, ensure_row_contiguous
    )


@dataclass(frozen=True)
class CudaText:
    header: str
    body: str
    buffers: tuple[Parameter, ...]
    template: tuple[tuple[str, Any], ...]

    def program(self, qualities: bool = False) -> str:
        """C++ with one kernel, `mh_entry`, that takes nothing. CUDA has one quality."""
        del qualities
        return "\n".join(
            [
                '#line 1 "header"',
                self.header,
                '#line 1 "signature"',
                "namespace mlx::core::cu { namespace cg = cooperative_groups;",
                'extern "C" __attribute__((visibility("default"))) void mh_entry() {',
                *[_constant(name, value) for name, value in self.template],
                *[_pointer(i, p) for i, p in enumerate(self.buffers)],
                f'#line {BODY_LINE + 1} "body"',
                self.body,
                "}}",
                "",
            ]
        )


class CudaHostKernel(HostKernel):
    language = "cuda"

    def _text(self, arrays: list[mx.array], call: dict[str, Any]) -> CudaText:
        """Mirrors what MLX 0.32.4 writes."""
        found = []
        for name, array in zip(self.input_names, arrays, strict=True):
            found.append(Parameter(f"const {_type(array.dtype)}*", name, None))
            facts = {"shape": "Shape&", "strides": "Strides&", "ndim": "int&"}
            for fact, kind in facts.items():
                if array.ndim and f"{name}_{fact}" in self.source:
                    found.append(Parameter(f"const {kind}", f"{name}_{fact}", None))
        for name, dtype in zip(self.output_names, call["output_dtypes"], strict=True):
            found.append(Parameter(f"{_type(dtype)}*", name, None))
        return CudaText(self.header, self.source, tuple(found), tuple(call["template"]))

    def _launch_shape(self, grid: Sequence[int], threadgroup: Sequence[int]) -> list[int]:
        whole = super()._launch_shape(grid, threadgroup)
        block = whole[3:]
        return [-(-g // t) * b for g, t, b in zip(grid, threadgroup, block, strict=True)] + block

    def _fact(self, fact: str, view: np.ndarray) -> np.ndarray:
        data = super()._fact(fact, view)
        return data if fact == "ndim" else np.pad(data, (0, DIMENSIONS - data.size))


def _type(dtype: mx.Dtype) -> str:
    if dtype not in TYPES:
        raise ValueError(f"metalhost has no CUDA type for {dtype}")
    return TYPES[dtype]


def _constant(name: str, value: Any) -> str:
    if isinstance(value, mx.Dtype):
        return f"using {name} = {_type(value)};"
    kind = "bool" if isinstance(value, bool) else "int"
    return f"constexpr {kind} {name} = {str(value).lower()};"


def _pointer(number: int, parameter: Parameter) -> str:
    kind = parameter.declared
    if parameter.is_reference:
        return f"{kind} {parameter.name} = *({kind[:-1]}*)mh_argument({number});"
    return f"{kind} {parameter.name} = ({kind})mh_argument({number});"
