"""Kernel texts are files; here they are read, joined and handed to MLX.

`<name>.metal` and `<name>.cu` name the files of `shared` that they use, `#include "formats.metal"`,
then hold helper functions, then a line `// body`, then the statements of the kernel, for which MLX
writes the signature. Where a kernel has no `.cu` of its own, CUDA compiles the Metal text with
`msl_on_cuda.cuh` before it. MLX hashes a text at every launch, so it carries what it uses alone.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from metal_kernels.cuda_text import device_functions

ROOT = Path(__file__).parent
SHARED = ROOT / "shared"
BODY = "\n// body\n"
_DECIDING = (".metal", ".cu", ".cuh", ".py")
_INCLUDE = re.compile(r'^#include "(\w+\.\w+)"$', re.MULTILINE)

Template = int | bool | mx.Dtype
Scalar = int | float
Outputs = Mapping[str, tuple[Sequence[int], mx.Dtype]]
"""Shape and dtype of every output by name."""

Builder = Callable[[str, str, tuple[str, ...], tuple[str, ...]], Callable[..., Any]]
builder: ContextVar[Builder | None] = ContextVar("builder", default=None)
"""What stands in for `built` in this thread; a recorder of launches, for example."""

# What lets CUDA compile Metal texts.
PRELUDE = "msl_on_cuda.cuh"
# In CUDA's signature an input without dimensions is a pointer, here of this name.
SCALAR = "{}_0d"


def launch(
    backend: str,
    name: str,
    *,
    inputs: Mapping[str, mx.array | Scalar],
    outputs: Outputs,
    grid: tuple[int, int, int],
    threadgroup: tuple[int, int, int],
    template: Mapping[str, Template] | None = None,
) -> tuple[mx.array, ...]:
    """Launch the text `<kernel folder>/<name>` once; the outputs in order.

    `grid` counts threads, as Metal's dispatchThreads does. Numbers among the inputs become 0-d
    arrays, float32 or int32, which the text reads as plain values. Texts are built on first use,
    never at import.
    """
    arrays = {n: v if isinstance(v, mx.array) else _scalar(v) for n, v in inputs.items()}
    kernel = (builder.get() or built)(backend, name, parameters(backend, arrays), tuple(outputs))
    return tuple(
        kernel(
            inputs=list(arrays.values()),
            output_shapes=[tuple(shape) for shape, _ in outputs.values()],
            output_dtypes=[dtype for _, dtype in outputs.values()],
            grid=grid,
            threadgroup=threadgroup,
            template=list((template or {}).items()),
        )
    )


class Prepared:
    """A launch made ready for shapes and options: only arrays are missing.

    `arrays` names what a call gives in this order, then come the `moving` 0-d ones; `scalars` are
    numbers that stay. Everything else is as in `launch`.
    """

    def __init__(
        self,
        backend: str,
        name: str,
        *,
        arrays: Sequence[str],
        outputs: Outputs,
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        moving: Sequence[str] = (),
        scalars: Mapping[str, Scalar] | None = None,
        template: Mapping[str, Template] | None = None,
    ) -> None:
        numbers = {n: _scalar(value) for n, value in (scalars or {}).items()}
        names = (*moving, *numbers)
        if backend != "metal":
            names = tuple(SCALAR.format(n) for n in names)
        self._text = (backend, name, (*arrays, *names), tuple(outputs))
        self._fixed: dict[str, Any] = {
            "output_shapes": [tuple(shape) for shape, _ in outputs.values()],
            "output_dtypes": [dtype for _, dtype in outputs.values()],
            "grid": grid,
            "threadgroup": threadgroup,
            "template": list((template or {}).items()),
        }
        self._numbers = tuple(numbers.values())
        # Who built it and what; one value, because threads may have builders of their own.
        self._kernel: tuple[Any, Callable[..., list[mx.array]]] | None = None

    def __call__(self, *arrays: mx.array) -> list[mx.array]:
        """Launch once; the outputs in order."""
        build = builder.get() or built
        kernel = self._kernel
        if kernel is None or kernel[0] is not build:
            kernel = self._kernel = build, partial(build(*self._text), **self._fixed)
        return kernel[1](inputs=arrays + self._numbers)


def zero_d(value: mx.array | Scalar) -> mx.array:
    """A moving number as the 0-d array that a text reads, int32 or float32."""
    return value if isinstance(value, mx.array) else _scalar(value)


def parameters(backend: str, arrays: Mapping[str, mx.array]) -> tuple[str, ...]:
    """Names of a text's inputs in the signature that MLX writes for it."""
    if backend == "metal":
        return tuple(arrays)
    return tuple(n if array.ndim else SCALAR.format(n) for n, array in arrays.items())


@lru_cache(1024, typed=True)  # 1 and 1.0 are different arrays; positions are many
def _scalar(value: Scalar) -> mx.array:
    return mx.array(value, mx.int32 if isinstance(value, int) else mx.float32)


@cache
def built(backend: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Any:
    """The callable that MLX makes of a text; tests put another builder here."""
    header, body = text(backend, name)
    if backend == "cuda":
        body = scalars(inputs) + body
    make = mx.fast.metal_kernel if backend == "metal" else mx.fast.cuda_kernel
    return make(
        name=f"dsv4_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        header=header,
        source=body,
    )


def scalars(parameters: tuple[str, ...]) -> str:
    """What lets a CUDA body read its inputs without dimensions by their own names."""
    names = [parameter.removesuffix(SCALAR[2:]) for parameter in parameters]
    pairs = zip(names, parameters, strict=True)
    return "".join(f"const auto {n} = *{p}; " for n, p in pairs if n != p)


def digest() -> str:
    """A name of all texts and of what decides their launches; another one, other numbers."""
    found = hashlib.sha256()
    files = [path for path in ROOT.rglob("*") if path.suffix in _DECIDING]
    for path in sorted(files, key=lambda path: path.relative_to(ROOT).as_posix()):
        content = path.read_bytes()
        found.update(f"{path.relative_to(ROOT).as_posix()} {len(content)}\n".encode() + content)
    return found.hexdigest()


def text(backend: str, name: str) -> tuple[str, str]:
    """Header (helper functions) and body of a kernel's text on a backend."""
    own = path(backend, name)
    helpers, marker, body = own.read_text(encoding="utf-8").partition(BODY)
    if not marker:
        raise ValueError(f"{own} has no line '// body' between its functions and its statements")
    texts = included(own.name, helpers)
    if backend == "cuda" and own.suffix == ".metal":
        texts = {file: device_functions(part) for file, part in texts.items()}
        texts = {PRELUDE: (SHARED / PRELUDE).read_text(encoding="utf-8")} | texts
    header = "\n".join(_located(file, 1, part) for file, part in texts.items())
    return header, _located(own.name, helpers.count("\n") + 3, body)


def included(file: str, helpers: str) -> dict[str, str]:
    """Helper functions by their file: of every shared file that is named, once each, then `file`'s.

    A file comes after those that it names itself; the lines that name files are left empty.
    """
    found: dict[str, str] = {}
    for shared in _INCLUDE.findall(helpers):
        found |= included(shared, (SHARED / shared).read_text(encoding="utf-8"))
    return {**found, file: _INCLUDE.sub("", helpers)}


def _located(file: str, line: int, part: str) -> str:
    """`part` whose compiler messages name this file and count from this line."""
    return f'\n#line {line} "{file}"\n{part}'


def path(backend: str, name: str) -> Path:
    """The file that a backend compiles for a text; names are unique among the kernel folders."""
    suffixes = (".cu", ".metal") if backend == "cuda" else (".metal",)
    for suffix in suffixes:
        found = sorted(ROOT.glob(f"*/{name}{suffix}"))
        if found:
            return found[0]
    raise FileNotFoundError(f"no kernel folder has {name}{suffixes[-1]}")
