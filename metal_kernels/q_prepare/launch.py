"""Geometry of the queries' preparation: one launch, a simdgroup for each head of a token."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.pairs import check_rope
from metal_kernels.sources import Prepared

# Heads of a threadgroup: one while every simdgroup can have a core for itself, else a few, because
# there are not as many places for threadgroups as for simdgroups.
_MANY = 8
_FEW_SIMDGROUPS = 1024


def q_prepare(call: Call) -> tuple[mx.array, mx.array | None]:
    """projected [B, S, H K + Hi Ki] -> q [B, S, H, K], index q [B, S, Hi, Ki] or None: one launch.

    It reads and writes `4 B S (H K + Hi Ki)` bytes, each value once: at one token of the released
    sizes (H 64, K 512, Hi 64, Ki 128) 160 KiB each way, in 128 simdgroups.
    """
    arrays = call.arrays
    q, index_q = call.keep(_launch)(arrays["projected"], arrays["cos"], arrays["sin"])
    return q, index_q if call.options["index_heads"] else None


def _launch(call: Call) -> Prepared:
    _check(call)
    B, S = call.sizes["B"], call.sizes["S"]
    heads, width, index_heads, index_width, eps, official = (
        call.options[name]
        for name in ("heads", "width", "index_heads", "index_width", "eps", "official")
    )
    total = heads + index_heads
    index_shape = (B, S, index_heads, index_width) if index_heads else (1,)
    return Prepared(
        call.backend,
        "q_prepare",
        arrays=("projected", "cos", "sin"),
        scalars={"heads": heads, "index_heads": index_heads, "eps": eps},
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


def _check(call: Call) -> None:
    """Raise ContractError where the columns are not the heads', or a head does not fit the text."""
    P, columns = call.sizes["P"], call.sizes["C"]
    heads, width, index_heads, index_width = (
        call.options[name] for name in ("heads", "width", "index_heads", "index_width")
    )
    if columns != heads * width + index_heads * index_width:
        raise ContractError(
            f"q_prepare: expected {heads} heads of {width} and {index_heads} of {index_width} "
            f"in projected but found {columns} columns."
        )
    check_rope("q_prepare", P, width)
    if index_heads:
        check_rope("q_prepare", P, index_width)
    if width % 2 or (index_heads and index_width % 2):
        raise ContractError(
            f"q_prepare: expected heads of even widths but found {width} and {index_width}."
        )
    if index_heads and call.options["official"] and index_width & (index_width - 1):
        raise ContractError(
            f"q_prepare: expected index heads of a power of two but found {index_width} dims; "
            "run the reference with --backend cpu."
        )
