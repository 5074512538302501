"""NVIDIA's run-time compiler from its Python packages: no GPU, no driver.

MLX compiles a CUDA kernel with it on the user's machine. Here the same compiler translates for a
named GPU down to its machine code, so that wrong C++ and too much shared memory show.
"""

import ctypes
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_LIBRARY = "lib/libnvrtc.so.13"
_HEADERS = ("include/cuda_bf16.h", "include/crt/host_defines.h", "include/cccl/cuda/std/array")


class CompileError(Exception):
    """The compiler's messages, each with the file and line of the text."""


@dataclass(frozen=True)
class Resources:
    """What one thread of a compiled kernel takes of a GPU, and what its block shares."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Compiled:
    ptx: str
    kernels: dict[str, Resources]  # by the name of the function


def missing() -> str | None:
    """Why nothing can be compiled here; None where it can."""
    return None if _toolkit() else "nvidia-cuda-nvrtc, -runtime, -crt, -cccl 13 not installed"


@cache
def _toolkit() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    for place in (spec and spec.submodule_search_locations) or ():
        root = Path(place) / "cu13"
        if all((root / part).is_file() for part in (_LIBRARY, *_HEADERS)):
            return root
    return None


def compiled(source: str, architecture: str, headers: Mapping[str, str]) -> Compiled:
    """Compile for `architecture`, "sm_90"; `headers` are texts by the name they are included as."""
    root = _toolkit()
    assert root is not None, missing()
    program = _program(source, headers)
    options = [f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    options += [f"--include-path={root / place}" for place in ("include/cccl", "include")]
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    try:
        failed = _library().nvrtcCompileProgram(program, len(options), encoded)
        log = _text(program, "ProgramLog")
        if failed:
            raise CompileError(log)
        return Compiled(_text(program, "PTX"), _resources(log))
    finally:
        _library().nvrtcDestroyProgram(ctypes.byref(program))


@cache
def _library() -> ctypes.CDLL:
    root = _toolkit()
    assert root is not None, missing()
    return ctypes.CDLL(str(root / _LIBRARY))


def _program(source: str, headers: Mapping[str, str]) -> ctypes.c_void_p:
    program, count = ctypes.c_void_p(), len(headers)
    names, texts = (
        (ctypes.c_char_p * count)(*(part.encode() for part in parts))
        for parts in (headers.keys(), headers.values())
    )
    result = _library().nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernel.cu", count, texts, names
    )
    assert result == 0, f"nvrtcCreateProgram: status {result}"
    return program


def _text(program: ctypes.c_void_p, kind: str) -> str:
    size = ctypes.c_size_t()
    getattr(_library(), f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(_library(), f"nvrtcGet{kind}")(program, text)
    return text.value.decode()


def _resources(log: str) -> dict[str, Resources]:
    """ptxas' report: a line that names the function, then its spills, then its registers."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        numbers = [
            re.search(pattern, part)
            for pattern in (
                r"Used (\d+) registers",
                r"(\d+) bytes spill stores",
                r"(\d+) bytes smem",
            )
        ]
        found[name] = Resources(*(int(n.group(1)) if n else 0 for n in numbers))
    return found
