"""Geometry of the queries' preparation: one launch, a simdgroup for each head of a token."""

import mlx.core as mx

from metal_kernels.contract import ContractError
from metal_kernels.pairs import check_rope
from metal_kernels.registry import kernels
from metal_kernels.sources import launch

# Heads of a threadgroup: one while every simdgroup can have a core for itself, else a few, because
# there are not as many places for threadgroups as for simdgroups.
_MANY = 8
_FEW_SIMDGROUPS = 1024


def q_prepare(
    backend: str,
    projected: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    heads: int,
    width: int,
    index_heads: int,
    index_width: int,
    eps: float,
    official: bool,
) -> tuple[mx.array, mx.array | None]:
    """projected [B, S, H K + Hi Ki] -> q [B, S, H, K], index q [B, S, Hi, Ki] or None: one launch.

    It reads and writes `4 B S (H K + Hi Ki)` bytes, each value once: at one token of the released
    sizes (H 64, K 512, Hi 64, Ki 128) 160 KiB each way, in 128 simdgroups.
    """
    arrays = {"projected": projected, "cos": cos, "sin": sin}
    sizes = kernels()["q_prepare"].check(arrays)
    B, S, P, columns = (sizes[letter] for letter in "BSPC")
    _check(columns, P, heads, width, index_heads, index_width, official)
    total = heads + index_heads
    index_shape = (B, S, index_heads, index_width) if index_heads else (1,)
    q, index_q = launch(
        backend,
        "q_prepare",
        inputs={**arrays, "heads": heads, "index_heads": index_heads, "eps": eps},
        outputs={
            "q": ((B, S, heads, width), mx.float32),
            "index_q": (index_shape, mx.float32),
        },
        grid=(32 * B * S, total, 1),
        threadgroup=(32, 1 if B * S * total <= _FEW_SIMDGROUPS else min(_MANY, total), 1),
        template={
            "WIDTH": width,
            "INDEX_WIDTH": index_width if index_heads else 32,
            "OFFICIAL": official,
        },
    )
    return q, index_q if index_heads else None


def _check(
    columns: int,
    P: int,
    heads: int,
    width: int,
    index_heads: int,
    index_width: int,
    official: bool,
) -> None:
    """Raise ContractError where the columns are not the heads', or a head does not fit the text."""
    if columns != heads * width + index_heads * index_width:
        raise ContractError(
            f"q_prepare: expected {heads} heads of {width} and {index_heads} of {index_width} "
            f"in projected but found {columns} columns"
        )
    check_rope("q_prepare", P, width)
    if index_heads:
        check_rope("q_prepare", P, index_width)
    if width % 2 or (index_heads and index_width % 2):
        raise ContractError(
            f"q_prepare: expected heads of even widths but found {width} and {index_width}"
        )
    if index_heads and official and index_width & (index_width - 1):
        raise ContractError(
            f"q_prepare: expected index heads of a power of two but found {index_width} dims; "
            "run the reference with --backend cpu"
        )
