"""Many rows times the MXFP4 matrices of their experts."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.expert_matmul.launch import expert_matmul as fused
from metal_kernels.expert_matmul.reference import expert_matmul


def packed(seed: int, E: int, out: int, width: int) -> tuple[mx.array, mx.array]:
    """Codes and scales of random matrices, for cases: every code, scales from 2^-7 to 1."""
    keys = mx.random.split(mx.random.key(seed))
    codes = mx.random.randint(0, 1 << 16, (E, out, width // 4), mx.int32, key=keys[0])
    scales = mx.random.randint(120, 128, (E, out, width // 32), mx.int32, key=keys[1])
    return codes.astype(mx.uint16).view(mx.uint32), scales.astype(mx.uint8)


def _case(
    name: str, M: int, E: int, width: int, out: int, k: int = 1, gathered: bool = True
) -> Case:
    def make(seed: int) -> dict[str, object]:
        drawn = mx.random.randint(0, E, (M * k,), mx.int32, key=mx.random.key(seed + 2))
        order = mx.argsort(drawn)
        codes, scales = packed(seed + 1, E, out, width)
        return {
            "x": random_normal(seed, M if gathered else M * k, width),
            "codes": codes,
            "scales": scales,
            "experts": drawn[order].astype(mx.uint32),
            "rows": order // k if gathered else None,
        }

    return Case(name, make)


def _size(name: str, M: int, E: int, width: int, out: int, k: int) -> Size:
    read = min(E, M * k) * out * (width // 2 + width // 32) + 4 * M * width
    return Size(
        _case(name, M, E, width, out, k),
        flops=2 * M * k * width * out,
        nbytes=read + 4 * M * k * out,
    )


KERNEL = Kernel(
    name="expert_matmul",
    summary="rows sorted by expert times the experts' MXFP4 matrices",
    reference=expert_matmul,
    inputs={
        "x": "M in",
        "codes": "E out words",
        "scales": "E out groups",
        "experts": "R",
        "rows": "R",
    },
    outputs={"product": "R out"},
    tolerance=1e-10,
    cases=(
        _case("few-rows", 5, 4, 64, 24),
        _case("two-choices", 11, 8, 96, 70, k=2),
        _case("one-expert", 43, 1, 32, 17, gathered=False),
        _case("many-blocks", 70, 2, 64, 8, k=2),
        _case("own-rows", 9, 6, 128, 33, k=3, gathered=False),
        _case("one-row", 1, 3, 32, 1, gathered=False),
    ),
    sizes=(
        _size("flash-40", 40, 64, 4096, 4096, 6),
        _size("flash-512", 512, 64, 4096, 4096, 6),
        _size("flash-down", 512, 64, 2048, 4096, 6),
    ),
    launches=on_gpus(fused),
)
