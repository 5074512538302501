"""Top-k routing by sqrt(softplus) scores with a selection bias (paper §2.1)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.router.launch import router as fused
from metal_kernels.router.reference import router


def _case(
    name: str,
    M: int,
    D: int,
    E: int,
    k: int,
    bias: float = 1.0,
    size: float = 1.0,
    dtype: mx.Dtype = mx.float32,
) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "x": size * random_normal(seed, M, D),
            "weight": (random_normal(seed + 1, E, D) * D**-0.5).astype(dtype),
            "bias": bias * random_normal(seed + 2, E) if bias else mx.zeros((E,)),
            "k": k,
            "scaling": 1.5,
        }

    return Case(name, make)


def _size(name: str, M: int, D: int, E: int, k: int) -> Size:
    return Size(_case(name, M, D, E, k, dtype=mx.bfloat16), flops=2 * M * D * E)


KERNEL = Kernel(
    name="router",
    summary="sqrtsoftplus scores, biased exact top-k, normalised weights",
    reference=router,
    inputs={"x": "M D", "weight": "E D", "bias": "E"},
    outputs={"experts": "M k", "weights": "M k"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 1, 256, 256, 6, dtype=mx.bfloat16),
        _case("pro", 2, 64, 384, 6, dtype=mx.bfloat16),
        _case("odd-sizes", 7, 131, 17, 3),
        _case("all-equal", 4, 64, 32, 6, bias=0.0, size=0.0),
        _case("large-logits", 3, 64, 32, 6, size=60.0),
        _case("every-expert", 3, 64, 4, 4),
    ),
    sizes=(
        _size("flash", 1, 4096, 256, 6),
        _size("pro", 1, 7168, 384, 6),
        _size("flash-prompt", 512, 4096, 256, 6),
    ),
    launches=on_gpus(fused),
)
