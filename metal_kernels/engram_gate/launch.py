"""Geometry of Engram's gate: one launch, a threadgroup for each stream of a token."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.engram_gate.reference import EPS, LEAST_SCORE
from metal_kernels.shared.threadgroups import MOST_THREADS
from metal_kernels.sources import Prepared


def engram_gate(call: Call) -> mx.array:
    """Streams [B, S, N, D], kv [B, S, N + 1, D] -> [B, S, N, D]; one launch.

    Reads `4 B S (2 N + 1) D` bytes of streams, keys and values, the value once for each stream, and
    the two weights; writes `4 B S N D` bytes.
    """
    arrays = call.arrays
    (added,) = call.keep(_launch)(
        arrays["streams"], arrays["kv"], arrays["q_weight"], arrays["k_weight"]
    )
    return added


def _launch(call: Call) -> Prepared:
    B, S, N, D = call.arrays["streams"].shape
    if call.sizes["M"] != N + 1:
        raise ContractError(
            f"engram_gate: expected a key for each of {N} streams and a value in kv but found "
            f"{call.sizes['M']} vectors."
        )
    threads = min(MOST_THREADS["engram_gate"], -(-D // 32) * 32)
    return Prepared(
        call.backend,
        "engram_gate",
        arrays=("streams", "kv", "q_weight", "k_weight"),
        scalars={"EPS": EPS, "LEAST_SCORE": LEAST_SCORE},
        outputs={"added": ((B, S, N, D), mx.float32)},
        grid=(B * S * N * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        template={"N": N, "D": D, "THREADS": threads, "OFFICIAL": call.options["official"]},
    )
