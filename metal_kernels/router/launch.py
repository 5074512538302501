"""Geometry of score routing: the logits by dense_matvec's text, then one simdgroup per token."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.dense_matvec.launch import product
from metal_kernels.sources import launch

# Lane j of a simdgroup keeps choice j.
MOST_EXPERTS_PER_TOKEN = 32
# Simdgroups, hence tokens, of one threadgroup.
_TOKENS = 8


def router(call: Call) -> tuple[mx.array, mx.array]:
    """x [M, D], weight [E, D], bias [E] -> experts [M, k] uint32, weights [M, k]; two launches.

    The first reads `E D` weights once for every eight tokens. The second reads `4 M E` bytes of
    logits and keeps them in registers over its k rounds.
    """
    M, E = call.sizes["M"], call.sizes["E"]
    k = min(call.options["k"], E)
    check_choices("router", k)
    x, weight, bias = call.arrays.values()
    experts, weights = launch(
        call.backend,
        "router",
        inputs={
            "logits": product(call.backend, x, weight),
            "bias": bias,
            "scaling": float(call.options["scaling"]),
        },
        outputs={"experts": ((M, k), mx.uint32), "weights": ((M, k), mx.float32)},
        **one_simdgroup_per_token(M),
        template={"E": E, "K": k},
    )
    return experts, weights


def one_simdgroup_per_token(M: int) -> dict[str, tuple[int, int, int]]:
    """Grid and threadgroup in which `thread_position_in_grid.y` is the token."""
    return {"grid": (32, M, 1), "threadgroup": (32, min(M, _TOKENS), 1)}


def check_choices(kernel: str, k: int) -> None:
    """Raise ContractError where a simdgroup has too few lanes for the choices."""
    if not 1 <= k <= MOST_EXPERTS_PER_TOKEN:
        raise ContractError(
            f"{kernel}: expected k in 1..{MOST_EXPERTS_PER_TOKEN} but found {k}; "
            "run the reference with --backend cpu."
        )
