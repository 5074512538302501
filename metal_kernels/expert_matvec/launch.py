"""Geometry of the chosen experts' product: `packed_matvec` for each of them, once."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.packed_matvec.launch import packing, prepared, rows_at_once
from metal_kernels.sources import Prepared


def expert_matvec(call: Call) -> mx.array:
    """x [X, in], packed matrices [E, out, in], experts [M, k] -> [M, k, out], one launch.

    Each chosen matrix is read once for up to eight choices of it, whoever chose it: by the
    threadgroups of the first choice, and those of the others end after a look at the choices before
    them. `2 M k out in` FLOPs. A choice has the numbers that it has alone.
    """
    arrays = call.arrays
    scales, experts = arrays["scales"], arrays["experts"]
    (product,) = call.keep(_launch)(
        arrays["x"], arrays["codes"], scales, arrays.get("biases", scales), experts
    )
    return product.reshape(*experts.shape, -1)


def _launch(call: Call) -> Prepared:
    X, M, k, out = (call.sizes[letter] for letter in ("X", "M", "k", "out"))
    weight = packing(call)
    if X not in (M, M * k):
        raise ContractError(
            f"expert_matvec: expected x with {M} rows or {M * k} for experts [{M} {k}] but found "
            f"{X} rows."
        )
    return prepared(
        call.backend,
        weight,
        results=M * k,
        outputs=out,
        sharing=M * k // X,
        blocks=M * k,
        rows=rows_at_once(M),
        experts=True,
    )
