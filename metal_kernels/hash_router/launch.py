"""Geometry of hash routing: the logits by dense_matvec's text, then one simdgroup per token."""

import mlx.core as mx

from metal_kernels.dense_matvec.launch import product
from metal_kernels.registry import kernels
from metal_kernels.router.launch import check_choices, one_simdgroup_per_token
from metal_kernels.sources import launch


def hash_router(
    backend: str,
    x: mx.array,
    weight: mx.array,
    table: mx.array,
    tokens: mx.array,
    *,
    scaling: float,
) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], table [V, k], tokens [M] -> experts, weights [M, k]; two launches.

    The first reads `E D` weights once for every eight tokens; the second reads k numbers of the
    table and k logits per token. The logits of unnamed experts are computed and not used.
    """
    sizes = kernels()["hash_router"].check(
        {"x": x, "weight": weight, "table": table, "tokens": tokens}
    )
    M, k = sizes["M"], sizes["k"]
    check_choices("hash_router", k)
    experts, weights = launch(
        backend,
        "hash_router",
        inputs={
            "logits": product(backend, x, weight, M, sizes["D"], sizes["E"]),
            "table": table,
            "tokens": tokens,
            "scaling": float(scaling),
        },
        outputs={"experts": ((M, k), mx.uint32), "weights": ((M, k), mx.float32)},
        **one_simdgroup_per_token(M),
        template={"K": k},
    )
    return experts, weights
