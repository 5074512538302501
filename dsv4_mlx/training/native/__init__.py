"""Parts of a training step in C: products in place, and loops that meet each number once.

MLX on the CPU makes an array per operation and takes 16 to 25 ns for an `exp`. The functions here
take arrays that are evaluated, write into arrays that are given, and multiply by the process's
OpenBLAS. Each has a form in ops beside it, which runs where `library()` is None: on another system,
without OpenBLAS, or without a C compiler. The library is compiled once per user and processor.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dsv4_mlx.blas import build, openblas

_FOLDER = Path(__file__).parent
# Sums may be taken in any order and divisions by reciprocals; NaN and infinity stay what they are.
_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
)


@cache
def _loaded() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    if sys.platform != "linux":
        return "its functions in C are made for Linux"
    if not isinstance(openblas.load(), openblas.OpenBlas):
        return "OpenBLAS does not answer MLX's products"
    sources, headers = sorted(_FOLDER.glob("*.c")), sorted(_FOLDER.glob("*.h"))
    try:
        return build.load(build.CLibrary("training", sources, _FLAGS, headers, _processor()))
    except build.NotBuilt as error:
        return str(error)


def library() -> ctypes.CDLL | None:
    """The compiled functions; None where training computes by ops alone."""
    found = _loaded()
    return None if isinstance(found, str) else found


def notice() -> str | None:
    """A line for a person whose training computes by ops on a CPU; None where it does not."""
    found = _loaded()
    if not isinstance(found, str) or mx.default_device() != mx.cpu:
        return None
    why = found.splitlines()[0]  # a compiler says more
    return f"training takes MLX's operations in the place of C, which is slower: {why}"


def _processor() -> str:
    """What `-march=native` depends on."""
    wanted = ("flags", "Features", "model name", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted))


def evaluated(arrays: Sequence[mx.array]) -> list[mx.array]:
    """The arrays, row after row in memory, with values."""
    found = [mx.contiguous(array) for array in arrays]
    mx.eval(found)
    return found


def empty(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """An array to be written."""
    found = mx.empty(shape, dtype)
    mx.eval(found)
    return found


def address(array: mx.array | None) -> int | None:
    """Where an evaluated array's first number lies."""
    return None if array is None else np.array(array, copy=False).ctypes.data


def pointer(array: mx.array | None) -> ctypes.c_void_p:
    """The same as an argument of C."""
    return ctypes.c_void_p(address(array))


def addresses(arrays: Sequence[mx.array]) -> Any:
    """Theirs, as an argument of C."""
    return (ctypes.c_void_p * len(arrays))(*map(address, arrays))


def on_cpu() -> ctypes.CDLL | None:
    """`library()`, where arrays are MLX's CPU's."""
    return library() if mx.default_device() == mx.cpu else None


def structure(name: str, kind: Any, fields: Sequence[str]) -> type[ctypes.Structure]:
    """A C struct whose fields are all of one kind."""
    return type(name, (ctypes.Structure,), {"_fields_": [(field, kind) for field in fields]})
