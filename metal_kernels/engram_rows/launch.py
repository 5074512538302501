"""Geometry of Engram's hashing: one launch, a thread for each row of a token."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.sources import Prepared

_THREADS = 64


def engram_rows(call: Call) -> tuple[mx.array, mx.array]:
    """tokens [B, S], history [B, H] -> rows [B, S, R], last [B, H]; one launch.

    Reads a few numbers per row, of which R is 24, and writes `4 B (S R + H)` bytes.
    """
    arrays = call.arrays
    rows, last = call.keep(_launch)(
        arrays["tokens"],
        arrays["history"],
        arrays["token_map"],
        arrays["multipliers"],
        arrays["primes"],
    )
    return rows, last


def _launch(call: Call) -> Prepared:
    sizes, pad = call.sizes, call.options["pad_token_id"]
    B, S, H, R = (sizes[letter] for letter in "BSHR")
    if sizes["K"] != H + 1 or R % H:
        raise ContractError(
            f"engram_rows: expected {H + 1} multipliers and a multiple of {H} primes for a history "
            f"of {H} tokens but found {sizes['K']} and {R}."
        )
    if not 0 <= pad < sizes["V"]:
        raise ContractError(
            f"engram_rows: expected pad_token_id within {sizes['V']} tokens but found {pad}."
        )
    for name in ("tokens", "history", "token_map", "multipliers", "primes"):
        if not mx.issubdtype(call.arrays[name].dtype, mx.integer):
            raise ContractError(
                f"engram_rows: expected integer {name} but found {call.arrays[name].dtype}."
            )
    return Prepared(
        call.backend,
        "engram_rows",
        arrays=("tokens", "history", "token_map", "multipliers", "primes"),
        scalars={"pad_token_id": pad},
        outputs={"rows": ((B, S, R), mx.int32), "last": ((B, H), mx.int32)},
        grid=(B * S * R, 1, 1),
        threadgroup=(_THREADS, 1, 1),
    )
