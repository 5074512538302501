"""Geometry of the embedding's rows."""

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.sources import Prepared

WIDTH = 256
"""Columns of one threadgroup."""


def embed_streams(call: Call) -> mx.array:
    """Token ids [B, S], table [V, D] bfloat16 or float32 -> [B, S, N, D]; one launch.

    Reads a row of the table per token, `D` times its itemsize bytes, and writes it N times, `4 N D`
    bytes: at one token of the released sizes (N 4, D 4096) 8 KB and 64 KB.
    """
    (embedded,) = call.keep(_launch)(call.arrays["tokens"], call.arrays["table"])
    return embedded


def _launch(call: Call) -> Prepared:
    _check_dtypes(**call.arrays)
    (B, S), D, streams = call.arrays["tokens"].shape, call.sizes["D"], call.options["streams"]
    return Prepared(
        call.backend,
        "embed_streams",
        arrays=("tokens", "table"),
        outputs={"embedded": ((B, S, streams, D), mx.float32)},
        grid=(B * S * WIDTH, -(-D // WIDTH), 1),
        threadgroup=(WIDTH, 1, 1),
        template={"STREAMS": streams},
    )


def _check_dtypes(tokens: mx.array, table: mx.array) -> None:
    """Raise ContractError where the text would convert numbers that the reference refuses."""
    if not mx.issubdtype(tokens.dtype, mx.integer):
        raise ContractError(f"embed_streams: expected integer tokens but found {tokens.dtype}.")
    if table.dtype not in (mx.bfloat16, mx.float32):
        raise ContractError(
            f"embed_streams: expected a table of bfloat16 or float32 but found {table.dtype}."
        )
