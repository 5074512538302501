"""Geometry of hash routing: the logits by dense_matvec's text, then one simdgroup per token."""

import mlx.core as mx

from metal_kernels.contract import Call
from metal_kernels.dense_matvec.launch import product
from metal_kernels.router.launch import check_choices, one_simdgroup_per_token
from metal_kernels.sources import Prepared


def hash_router(call: Call) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], table [V, k], tokens [M] -> experts, weights [M, k]; two launches.

    The first reads `E D` weights once for every eight tokens; the second reads k numbers of the
    table and k logits per token. The logits of unnamed experts are computed and not used.
    """
    choice, arrays = call.keep(_choice), call.arrays
    experts, weights = choice(product(call), arrays["table"], arrays["tokens"])
    return experts, weights


def _choice(call: Call) -> Prepared:
    M, k = call.sizes["M"], call.sizes["k"]
    check_choices("hash_router", k)
    grid, threadgroup = one_simdgroup_per_token(M)
    return Prepared(
        call.backend,
        "hash_router",
        arrays=("logits", "table", "tokens"),
        scalars={"scaling": float(call.options["scaling"])},
        outputs={"experts": ((M, k), mx.uint32), "weights": ((M, k), mx.float32)},
        grid=grid,
        threadgroup=threadgroup,
        template={"K": k},
    )
