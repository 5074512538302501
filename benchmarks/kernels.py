"""Every kernel on the backend at hand, against the least bytes and operations its size needs.

    python -m benchmarks.kernels [--backend auto] [--kernel a,b] [--rounds N]

Each kernel declares its sizes (`Kernel.sizes`); its first case stands in where it declares none.
Several calls are evaluated together, so that a row is the time of one call among others, not the
time to start and wait for one. The inputs of the calls differ and together exceed a GPU's caches.
The rows go to results/kernels.csv.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import mlx.core as mx

from benchmarks.record import device, record
from metal_kernels import registry
from metal_kernels.contract import Kernel, Size

FIELDS = ("backend", "device", "kernel", "size", "implementation", "calls", "median_us", "min_us")
FIELDS += ("floor_bytes", "gb_per_s", "floor_flops", "gflop_per_s")

_ROUND_S = 0.05
"""A round evaluates enough calls to take about this long."""
_MOST_CALLS = 256
_ROUND_BYTES = 1 << 30
"""Arrays of a round, whose results all stay until its end."""
_DISTINCT_BYTES = 1 << 28
"""Inputs of a round on a GPU: beyond any last-level cache."""
_MOST_SETS = 16


@dataclass(frozen=True)
class Timing:
    """Seconds of one call in each round."""

    seconds: tuple[float, ...]
    calls: int
    nbytes: int


def sizes(kernel: Kernel, *, small: bool = False) -> tuple[Size, ...]:
    """What to time of a kernel: its declared sizes, or when `small` its first case alone."""
    first = (Size(kernel.cases[0], flops=0),)
    return first if small else kernel.sizes or first


def measure(
    operation: Callable[..., Any],
    size: Size,
    *,
    rounds: int,
    on_gpu: bool,
    round_s: float = _ROUND_S,
) -> Timing:
    """Time `operation` at a size."""
    first = size.case.make(0)
    nbytes = size.nbytes or moved_bytes(first, operation(**first))
    sets = min(_MOST_SETS, ceil(_DISTINCT_BYTES / max(nbytes, 1))) if on_gpu else 1
    inputs = [first, *(size.case.make(seed) for seed in range(1, sets))]
    mx.eval([list(arrays(each.values())) for each in inputs])
    _evaluate(operation, inputs, 1)  # compiles
    once = _evaluate(operation, inputs, 1)
    most = min(_MOST_CALLS, _ROUND_BYTES // max(nbytes, 1))
    calls = max(1, min(most, round(round_s / max(once, 1e-6))))
    _evaluate(operation, inputs, calls)
    seconds = tuple(_evaluate(operation, inputs, calls) / calls for _ in range(rounds))
    return Timing(seconds, calls, nbytes)


def moved_bytes(arguments: Mapping[str, Any], result: Any) -> int:
    """Bytes of every input and output array."""
    return sum(array.nbytes for array in (*arrays(arguments.values()), *arrays([result])))


def arrays(values: Any) -> Iterator[mx.array]:
    """The arrays among values, those of tuples included."""
    for value in values:
        if isinstance(value, mx.array):
            yield value
        elif isinstance(value, tuple):
            yield from arrays(value)


def _evaluate(operation: Callable[..., Any], inputs: Sequence[dict[str, Any]], calls: int) -> float:
    started = time.perf_counter()
    mx.eval([operation(**inputs[call % len(inputs)]) for call in range(calls)])
    return time.perf_counter() - started


def rows(
    backend: str = "auto",
    names: Sequence[str] = (),
    rounds: int = 5,
    round_s: float = _ROUND_S,
    *,
    small: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row per kernel and size."""
    plan = registry.plan(backend)
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    for name, kernel in registry.kernels().items():
        if names and name not in names:
            continue
        for size in sizes(kernel, small=small):
            operation = getattr(plan.ops, name)
            on_gpu = plan.backend != "cpu"
            timing = measure(operation, size, rounds=rounds, on_gpu=on_gpu, round_s=round_s)
            yield {
                "backend": plan.backend,
                "device": device(),
                "kernel": name,
                "size": size.case.id,
                "implementation": plan.chosen[name],
                **_figures(timing, size.flops),
            }


def _figures(timing: Timing, flops: int) -> dict[str, Any]:
    median = statistics.median(timing.seconds)
    return {
        "calls": timing.calls,
        "median_us": round(median * 1e6, 2),
        "min_us": round(min(timing.seconds) * 1e6, 2),
        "floor_bytes": timing.nbytes,
        "gb_per_s": round(timing.nbytes / median / 1e9, 2),
        "floor_flops": flops,
        "gflop_per_s": round(flops / median / 1e9, 2),
    }


def line(row: Mapping[str, Any]) -> str:
    """A row for readers."""
    return (
        f"{row['kernel']:16} {row['size']:20} {row['implementation']:9} "
        f"{row['median_us']:12,.1f} us {row['gb_per_s']:9.2f} GB/s "
        f"{row['gflop_per_s']:10.2f} GFLOP/s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Time, print, record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="auto", choices=("auto", "metal", "cuda", "cpu"))
    parser.add_argument("--kernel", default="", help="names separated by commas; default: all")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    names = [name for name in options.kernel.split(",") if name]
    unknown = sorted(set(names) - set(registry.NAMES))
    if unknown:
        parser.error(f"expected kernels out of {', '.join(registry.NAMES)} but found {unknown[0]}")
    found = []
    for row in rows(options.backend, names, options.rounds):
        print(line(row), flush=True)
        found.append(row)
    command = f"python -m benchmarks.kernels --backend {options.backend} --rounds {options.rounds}"
    record("kernels", command + (f" --kernel {options.kernel}" if names else ""), found, FIELDS)


if __name__ == "__main__":
    main()
