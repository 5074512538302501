"""What compiling costs, text by text, and the text that does not compile.

MLX builds a library for every text with its template values and the dtypes and sizes of its arrays,
when it is first evaluated. Here the first call of each is evaluated alone and timed, with the same
call again beside it. The text lies in a file until that is done, so that a compiler which aborts or
hangs leaves it.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.report.teller import Teller
from metal_kernels import sources

_CONSTANT_BELOW = 8
"""Arrays of fewer elements lie in another address space, which makes another library."""


@contextmanager
def recorded(teller: Teller) -> Iterator[None]:
    """Within, every first evaluation of a variant is told as a row `variant`."""
    recorder = _Recorder(teller, sources.builder.get() or sources.built)
    token = sources.builder.set(recorder.built)
    try:
        yield
    finally:
        sources.builder.reset(token)


class _Recorder:
    """Stands in for `sources.built`."""

    def __init__(self, teller: Teller, build: Callable[..., Any]):
        self._teller, self._build = teller, build
        self._seen: set[str] = set()

    def built(
        self, backend: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]
    ) -> Callable[..., Any]:
        kernel = self._build(backend, name, inputs, outputs)

        def call(**how: Any) -> Any:
            variant = variant_of(name, how)
            if variant in self._seen:
                return kernel(**how)
            self._seen.add(variant)
            return self._first(backend, name, variant, kernel, how)

        return call

    def _first(
        self, backend: str, name: str, variant: str, kernel: Callable[..., Any], how: dict[str, Any]
    ) -> Any:
        self._teller.at(f"first call of {variant}")
        text = written_text(self._teller.folder, backend, name, variant)
        mx.eval(how["inputs"])
        results, first = _evaluated(kernel, how)
        _, again = _evaluated(kernel, how)
        text.unlink()
        self._teller.row("variant", text=name, variant=variant, first_s=first, again_s=again)
        return results


def _evaluated(kernel: Callable[..., Any], how: dict[str, Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    results = kernel(**how)
    mx.eval(results)
    return results, round(time.perf_counter() - started, 6)


def variant_of(name: str, how: dict[str, Any]) -> str:
    """What MLX keeps one library for: the text, its template and what its arrays are."""
    values = [str(value) for _, value in how.get("template") or ()]
    return " ".join([name, *values, *map(_kind, how["inputs"])])


def _kind(array: mx.array) -> str:
    size = "s" if not array.ndim else "c" if array.size < _CONSTANT_BELOW else ""
    return str(array.dtype).removeprefix("mlx.core.") + size


def written_text(folder: Path, backend: str, name: str, variant: str) -> Path:
    """The text of a variant as a file, named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    header, body = sources.text(backend, name)
    suffix = sources.path(backend, name).suffix
    path = folder / (re.sub(r"[^\w.]+", "-", variant)[:120] + suffix)
    path.write_text(f"// {variant}\n{header}\n// body\n{body}", encoding="utf-8")
    return path
