"""Geometry of the latents' preparation: one launch, two threadgroups for each token."""

import mlx.core as mx

from metal_kernels.contract import ContractError
from metal_kernels.formats import Storage, row_shape
from metal_kernels.pairs import check_rope, pair_threads
from metal_kernels.registry import kernels
from metal_kernels.sources import launch


def qkv_prepare(
    backend: str,
    projected: mx.array,
    q_norm_weight: mx.array,
    kv_norm_weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    eps: float,
    official: bool,
    storage: Storage,
) -> tuple[mx.array, mx.array]:
    """projected [B, S, L + K] -> residual [B, S, L] and stored window rows [B, S, ...]: one launch.

    It reads `4 B S (L + K)` bytes (the residual's columns a second time, from cache) and writes
    `4 B S L` and the rows: 583 B S bytes where the release's latents are compact.
    """
    arrays = {
        "projected": projected,
        "q_norm_weight": q_norm_weight,
        "kv_norm_weight": kv_norm_weight,
        "cos": cos,
        "sin": sin,
    }
    sizes = kernels()["qkv_prepare"].check(arrays)
    B, S, L, K, P = (sizes[letter] for letter in "BSLKP")
    if sizes["C"] != L + K:
        raise ContractError(
            f"qkv_prepare: expected projected as [B, S, {L} + {K}] but found {projected.shape}"
        )
    check_rope("qkv_prepare", P, K)
    threads = pair_threads("qkv_prepare", "K", K)
    row, dtype = row_shape(storage, "latent", K, 2 * P)
    q_residual, kv = launch(
        backend,
        "qkv_prepare",
        inputs={**arrays, "eps": eps},
        outputs={"q_residual": ((B, S, L), mx.float32), "kv": ((B, S, row), dtype)},
        grid=(threads * B * S, 2, 1),
        threadgroup=(threads, 1, 1),
        template={"OFFICIAL": official, "Stored": dtype},
    )
    return q_residual, kv
