"""Geometry of hash routing: the logits by dense_matvec's text, then one simdgroup per token."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.dense_matvec.launch import product
from metal_kernels.router.launch import check_choices, one_simdgroup_per_token
from metal_kernels.sources import launch


def hash_router(call: Call) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], table [V, k], tokens [M] -> experts, weights [M, k]; two launches.

    The first reads `E D` weights once for every eight tokens; the second reads k numbers of the
    table and k logits per token. The logits of unnamed experts are computed and not used.
    """
    M, k = call.sizes["M"], call.sizes["k"]
    check_choices("hash_router", k)
    x, weight, table, tokens = call.arrays.values()
    experts, weights = launch(
        call.backend,
        "hash_router",
        inputs={
            "logits": product(call.backend, x, weight),
            "table": table,
            "tokens": tokens,
            "scaling": float(call.options["scaling"]),
        },
        outputs={"experts": ((M, k), mx.uint32), "weights": ((M, k), mx.float32)},
        **one_simdgroup_per_token(M),
        template={"K": k},
    )
    return experts, weights
