"""The CUDA source of a kernel, run on this CPU: metalhost's threads, CUDA's words.

Everything of the CUDA path but NVIDIA's compiler and GPU: the prelude, the marked functions, the
mirrored signature, launches in whole blocks. Races and bounds are the business of the Metal text,
which is the same; here only results count.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from metal_kernels import sources
from metal_kernels.registry import KernelPlan, bind
from tests.kernels.cuda_signature import (
    INCLUDES,
    Launch,
    building,
    cuda_source,
    own_body,
    parameters,
    whole_blocks,
)
from tests.metalhost import toolchain
from tests.metalhost.launch import LOCK, SECONDS, runtime

_HEADER = Path(__file__).with_name("cuda.h")
_FLAGS = (
    *("-x", "c++", "-std=c++17", toolchain.TARGET, "-nostdinc", "-O1", "-fPIC", "-fwrapv"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-exceptions", "-fno-stack-protector"),
    *("-fno-threadsafe-statics", "-Xclang", "-ffloat16-excess-precision=none"),
    *("-Xclang", "-fbfloat16-excess-precision=none", "-Wno-everything", *toolchain.CPU),
)
_DIMENSIONS = 10  # of MLX's Shape and Strides


@contextmanager
def cuda_host_plan() -> Iterator[KernelPlan]:
    """The `cuda` plan, run on this CPU while the block lasts."""
    with building(_built):
        yield bind("cuda")


def _built(backend: str, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    def call(**call: Any) -> list[mx.array]:
        return run(Launch.of(name, inputs, outputs, call), call["inputs"], call["output_shapes"])

    return call


def run(
    launch: Launch, inputs: Sequence[mx.array], output_shapes: Sequence[Sequence[int]]
) -> list[mx.array]:
    """Execute one launch; its outputs begin as bytes 0xFF, which are NaN."""
    arrays = dict(zip((name for name, _, _ in launch.inputs), inputs, strict=True))
    wanted = {
        name: (shape, dtype)
        for (name, dtype), shape in zip(launch.outputs, output_shapes, strict=True)
    }
    # One kernel for all sizes, which are no part of it.
    entry, names = _compiled(replace(launch, grid=(), threadgroup=()))
    with LOCK:
        try:
            places = {n: _placed(number, n, arrays, wanted) for number, n in enumerate(names)}
            grid, block = whole_blocks(launch.grid, launch.threadgroup)
            failed = runtime().mh_launch(
                *(entry, (ctypes.c_uint32 * 6)(*grid, *block), 0, 0, None, 0),
                *(0, 0, False, SECONDS),
            )
            assert not failed, f"{launch.name}: error kind {runtime().mh_error().contents.kind}"
            return [_taken(places[name], *wanted[name]) for name in wanted]
        finally:
            runtime().mh_release()


def _placed(number: int, name: str, arrays: dict[str, mx.array], wanted: Any) -> int:
    """Address of a parameter's bytes between guard pages."""
    if name in wanted:
        shape, dtype = wanted[name]
        data = b"\xff" * (int(np.prod(shape)) * dtype.size)
    else:
        data = _input_bytes(name, arrays)
    place = runtime().mh_buffer(number, len(data), name in wanted, name not in wanted, False)
    assert place, f"no memory for {len(data)} bytes"
    ctypes.memmove(place, data, len(data))
    return place


def _input_bytes(name: str, arrays: dict[str, mx.array]) -> bytes:
    if name in arrays:
        return np.array(arrays[name].reshape(-1).view(mx.uint8)).tobytes()
    owner, _, fact = name.rpartition("_")
    shape = arrays[owner].shape
    assert fact == "shape", f"{name}: no text has used it so far"
    return np.array([*shape, *[0] * (_DIMENSIONS - len(shape))], np.int32).tobytes()


def _taken(place: int, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    data = ctypes.string_at(place, int(np.prod(shape)) * dtype.size)
    if not data:
        return mx.zeros(shape, dtype)
    return mx.array(np.frombuffer(data, np.uint8)).view(dtype).reshape(shape)


@cache
def _compiled(launch: Launch) -> tuple[int, list[str]]:
    """Address of a kernel without arguments, and the names of what it looks up by number."""
    body = own_body(launch, sources.text("cuda", launch.name)[1])
    declared = parameters(launch, body)
    library = _library(_program(launch, [kind for kind, _ in declared]))
    entry = ctypes.cast(library.mh_entry, ctypes.c_void_p).value
    assert entry is not None
    return entry, [name for _, name in declared]


def _program(launch: Launch, kinds: list[str]) -> str:
    arguments = []
    for number, kind in enumerate(kinds):
        kind = kind.removeprefix("const __grid_constant__ ")
        pointer = f"({kind})" if kind.endswith("*") else f"*(const mlx::core::cu::{kind}*)"
        arguments.append(f"{pointer}mh_argument({number})")
    call = f"mlx::core::cu::variant_0({', '.join(arguments)});"
    return (
        _HEADER.read_text(encoding="utf-8")
        + cuda_source([launch]).removeprefix(INCLUDES)
        + f'\nextern "C" void mh_entry() {{ {call} }}\n'
    )


def _library(program: str) -> ctypes.CDLL:
    tools = toolchain.toolchain()

    def build(folder: Path) -> None:
        source, made = folder / "kernel.cpp", folder / "kernel.o"
        source.write_text(program, encoding="utf-8")
        tools.run([*tools.clang, *_FLAGS, "-c", source, "-o", made])
        tools.run([*tools.link, "-shared", "-o", folder / "kernel.so", made])

    runtime()
    return ctypes.CDLL(str(toolchain.cached(("cuda", program, *_FLAGS), build) / "kernel.so"))
