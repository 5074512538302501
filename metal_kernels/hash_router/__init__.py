"""Routing of the first layers by token id (paper §2.1)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.hash_router.reference import hash_router


def _case(name: str, M: int, D: int, E: int, k: int) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "x": random_normal(seed, M, D),
            "weight": random_normal(seed + 1, E, D) * D**-0.5,
            "table": mx.argsort(random_normal(seed + 2, 97, E), axis=-1)[:, :k].astype(mx.int32),
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
    cases=(_case("one-token", 1, 256, 256, 6), _case("odd-sizes", 7, 131, 17, 3)),
)
