"""Routing of the first layers by token id (paper §2.1)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.hash_router.launch import hash_router as fused
from metal_kernels.hash_router.reference import hash_router


def _case(
    name: str, M: int, D: int, E: int, k: int, dtype: mx.Dtype = mx.int32, size: float = 1.0
) -> Case:
    def make(seed: int) -> dict[str, object]:
        weight = random_normal(seed + 1, E, D) * D**-0.5
        return {
            "x": size * random_normal(seed, M, D),
            "weight": weight.astype(mx.bfloat16),
            "table": mx.argsort(random_normal(seed + 2, 97, E), axis=-1)[:, :k].astype(dtype),
            "tokens": mx.random.randint(0, 97, (M,), key=mx.random.key(seed + 3)),
            "scaling": 1.5,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="hash_router",
    summary="experts from the token id, weights from the scores",
    reference=hash_router,
    inputs={"x": "M D", "weight": "E D", "table": "V k", "tokens": "M"},
    outputs={"experts": "M k", "weights": "M k"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 1, 256, 256, 6),
        _case("odd-sizes", 7, 131, 17, 3),
        _case("int64-table", 3, 64, 32, 6, dtype=mx.int64),
        _case("large-logits", 3, 64, 32, 6, size=30.0),
    ),
    sizes=(
        Size(_case("flash", 1, 4096, 256, 6), flops=2 * 4096 * 256),
        Size(_case("pro", 1, 7168, 384, 6), flops=2 * 7168 * 384),
    ),
    launches=on_gpus(fused),
)
