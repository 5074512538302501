"""Geometry of the latents' preparation: one launch, two threadgroups for each token."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.formats import row_shape
from metal_kernels.shared.pairs import check_rope, pair_threads
from metal_kernels.sources import Prepared


def qkv_prepare(call: Call) -> tuple[mx.array, mx.array]:
    """projected [B, S, L + K] -> residual [B, S, L] and stored window rows [B, S, ...]: one launch.

    It reads `4 B S (L + K)` bytes (the residual's columns a second time, from cache) and writes
    `4 B S L` and the rows: 583 B S bytes where the release's latents are compact.
    """
    q_residual, kv = call.keep(_launch)(*call.arrays.values())
    return q_residual, kv


def _launch(call: Call) -> Prepared:
    B, S, L, K, P, columns = (call.sizes[letter] for letter in "BSLKPC")
    if columns != L + K:
        raise ContractError(
            f"qkv_prepare: expected projected as [B, S, {L} + {K}] "
            f"but found {call.arrays['projected'].shape}."
        )
    check_rope("qkv_prepare", P, K)
    threads = pair_threads("qkv_prepare", "K", K)
    row, dtype = row_shape(call.options["storage"], "latent", K, 2 * P)
    return Prepared(
        call.backend,
        "qkv_prepare",
        arrays=tuple(call.arrays),
        scalars={"eps": call.options["eps"]},
        outputs={"q_residual": ((B, S, L), mx.float32), "kv": ((B, S, row), dtype)},
        grid=(threads * B * S, 2, 1),
        threadgroup=(threads, 1, 1),
        template={"OFFICIAL": call.options["official"], "Stored": dtype},
    )
