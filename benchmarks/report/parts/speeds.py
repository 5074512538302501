"""What the machine itself can do: copying, multiplying, launching. Floors are made of these."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from benchmarks.report.setting import Setting
from benchmarks.report.teller import Teller
from metal_kernels import registry

_WIDTH = 4096
_WARM_UPS = 2


def run(teller: Teller, setting: Setting) -> None:
    """Rows `speed`: the median of some rounds each. With `tf32` the float32 product alone."""
    plan = registry.plan(setting.backend)
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    sizes, rounds = setting.sizes, setting.sizes.rounds
    if "tf32" not in setting.choices:
        teller.tried("copy", lambda: copy(teller, sizes.copy_bytes, rounds))
        teller.tried(
            "matvec", lambda: matvec(teller, plan.ops.dense_matvec, sizes.matvec_bytes, rounds)
        )
        step = launcher(plan.backend)
        teller.tried("launches", lambda: launches(teller, step, sizes.launches, rounds))
        teller.tried("matmul bfloat16", lambda: matmul(teller, mx.bfloat16, sizes.matmul, rounds))
    teller.tried("matmul float32", lambda: matmul(teller, mx.float32, sizes.matmul, rounds))


def copy(teller: Teller, nbytes: int, rounds: int) -> None:
    """Read and write so many bytes in all."""
    x = mx.zeros((nbytes // 8,))
    mx.eval(x)
    seconds = median(lambda: mx.negative(x), rounds)
    teller.row("speed", name="copy", bytes=nbytes, seconds=seconds, gb_per_s=nbytes / seconds / 1e9)


def matvec(teller: Teller, ours: Callable[..., mx.array], nbytes: int, rounds: int) -> None:
    """One row times a bfloat16 matrix of so many bytes, by our kernel and by MLX's."""
    weight = mx.random.normal((nbytes // (2 * _WIDTH), _WIDTH)).astype(mx.bfloat16)
    x = mx.random.normal((1, _WIDTH))
    mx.eval(weight, x)
    narrow = x.astype(mx.bfloat16)
    for name, product in (
        ("matvec", lambda: ours(x, weight)),
        ("matvec of MLX", lambda: narrow @ weight.T),
    ):
        seconds = median(product, rounds)
        rate = weight.nbytes / seconds / 1e9
        teller.row("speed", name=name, bytes=weight.nbytes, seconds=seconds, gb_per_s=rate)


def launches(teller: Teller, step: Callable[[mx.array], mx.array], count: int, rounds: int) -> None:
    """So many launches of nothing, each waiting for the one before it."""

    def chain() -> mx.array:
        x = mx.zeros((8,))
        for _ in range(count):
            x = step(x)
        return x

    seconds = median(chain, rounds)
    teller.row("speed", name="launch", count=count, seconds=seconds, us=seconds / count * 1e6)


def launcher(backend: str) -> Callable[[mx.array], mx.array]:
    """The smallest launch that a backend has."""
    if backend == "cpu":
        return lambda x: x + 1
    make: Any = mx.fast.metal_kernel if backend == "metal" else mx.fast.cuda_kernel
    names = {"input_names": ["x"], "output_names": ["y"]}
    kernel = make(name="dsv4_report_empty", source="y[0] = x[0];", **names)
    one = {"grid": (1, 1, 1), "threadgroup": (1, 1, 1)}

    def step(x: mx.array) -> mx.array:
        outputs = kernel(inputs=[x], output_shapes=[(8,)], output_dtypes=[mx.float32], **one)
        return outputs[0]  # type: ignore[no-any-return]

    return step


def matmul(teller: Teller, dtype: mx.Dtype, size: int, rounds: int) -> None:
    """A square product."""
    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(a, b)
    seconds = median(lambda: a @ b, rounds)
    name = "matmul " + str(dtype).removeprefix("mlx.core.")
    flops = 2 * size**3
    teller.row("speed", name=name, flops=flops, seconds=seconds, tflop_per_s=flops / seconds / 1e12)


def median(action: Callable[[], mx.array], rounds: int) -> float:
    """Seconds of one evaluation; the first ones, which compile, are left out."""
    seconds = []
    for _ in range(_WARM_UPS + rounds):
        started = time.perf_counter()
        mx.eval(action())
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UPS:])
