"""Geometry of score routing: the logits by dense_matvec's text, then one simdgroup per token."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.dense_matvec.launch import product
from metal_kernels.sources import Prepared

# Lane j of a simdgroup keeps choice j.
MOST_EXPERTS_PER_TOKEN = 32
# Simdgroups, hence tokens, of one threadgroup.
_TOKENS = 8


def router(call: Call) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], bias [E] -> experts [M, k] uint32, weights [M, k]; two launches.

    The first reads `E D` weights once for every eight tokens. The second reads `4 M E` bytes of
    logits and keeps them in registers over its k rounds.
    """
    experts, weights = call.keep(_choice)(product(call), call.arrays["bias"])
    return experts, weights


def _choice(call: Call) -> Prepared:
    M, E = call.sizes["M"], call.sizes["E"]
    k = min(call.options["k"], E)
    check_choices("router", k)
    grid, threadgroup = one_simdgroup_per_token(M)
    return Prepared(
        call.backend,
        "router",
        arrays=("logits", "bias"),
        scalars={"scaling": float(call.options["scaling"])},
        outputs={"experts": ((M, k), mx.uint32), "weights": ((M, k), mx.float32)},
        grid=grid,
        threadgroup=threadgroup,
        template={"E": E, "K": k},
    )


def one_simdgroup_per_token(M: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and threadgroup in which `thread_position_in_grid.y` is the token."""
    return (32, M, 1), (32, min(M, _TOKENS), 1)


def check_choices(kernel: str, k: int) -> None:
    """Raise ContractError where a simdgroup has too few lanes for the choices."""
    if not 1 <= k <= MOST_EXPERTS_PER_TOKEN:
        raise ContractError(
            f"{kernel}: expected k in 1..{MOST_EXPERTS_PER_TOKEN} but found {k}; "
            "run the reference with --backend cpu."
        )
