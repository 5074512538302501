"""Few rows times a dense weight: router logits, compressor and head-weight projections."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.dense_matvec.launch import dense_matvec as fused
from metal_kernels.dense_matvec.reference import dense_matvec


def _case(name: str, M: int, width: int, out: int, dtype: mx.Dtype) -> Case:
    def make(seed: int) -> dict[str, object]:
        weight = random_normal(seed + 1, out, width) * width**-0.5
        return {"x": random_normal(seed, M, width), "weight": weight.astype(dtype)}

    return Case(name, make)


def _size(name: str, M: int, width: int, out: int) -> Size:
    return Size(_case(name, M, width, out, mx.bfloat16), flops=2 * M * width * out)


KERNEL = Kernel(
    name="dense_matvec",
    summary="few rows times a dense bfloat16 or float32 weight",
    reference=dense_matvec,
    inputs={"x": "M in", "weight": "out in"},
    outputs={"product": "M out"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 1, 4096, 256, mx.bfloat16),
        _case("float32", 2, 512, 24, mx.float32),
        _case("odd-sizes", 7, 131, 17, mx.bfloat16),
        _case("odd-float32", 3, 61, 5, mx.float32),
        _case("eight-rows", 8, 256, 64, mx.bfloat16),
        _case("more-rows", 19, 72, 33, mx.bfloat16),
    ),
    sizes=(
        _size("flash-router", 1, 4096, 256),
        _size("pro-router", 1, 7168, 384),
        _size("flash-compressors", 1, 4096, 2560),
        _size("eight-tokens", 8, 4096, 256),
    ),
    launches=on_gpus(fused),
)
