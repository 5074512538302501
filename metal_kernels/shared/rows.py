"""What one stored row of a cache takes, as plain numbers: planning memory needs no mlx.

`formats` makes and reads the rows. A latent of width K with r rotated dims is K - r e4m3 codes, r
little-endian bf16 and one e8m0 scale per 64 codes; an index key of width Ki is Ki / 2 bytes of e2m1
codes, the even dim in the low nibble, and one e8m0 scale per 32 codes.
"""

from math import ceil
from typing import Literal

FP8_KV_BLOCK = 64
FP4_BLOCK = 32

RowStorage = Literal["float32", "bfloat16", "compact"]
RowKind = Literal["latent", "key"]
Element = Literal["float32", "bfloat16", "uint8"]

_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "uint8": 1}


def row_form(
    storage: RowStorage, kind: RowKind, width: int, rope_dims: int = 0
) -> tuple[int, Element]:
    """Elements of a stored row and their dtype: 583 bytes for the release's latents, 68 for its
    keys."""
    if storage != "compact":
        return width, storage
    if kind == "key":
        return width // 2 + ceil(width / FP4_BLOCK), "uint8"
    plain = width - rope_dims
    return plain + 2 * rope_dims + ceil(plain / FP8_KV_BLOCK), "uint8"


def row_bytes(storage: RowStorage, kind: RowKind, width: int, rope_dims: int = 0) -> int:
    """Bytes of a stored row."""
    elements, dtype = row_form(storage, kind, width, rope_dims)
    return elements * _ELEMENT_BYTES[dtype]
