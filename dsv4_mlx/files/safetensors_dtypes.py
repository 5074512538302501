"""The dtypes of safetensors files that V4 releases and our conversions hold, and their sizes."""

import math
from typing import NamedTuple

# Bytes per element. F4, F8_E5M2 and F64 are absent: no V4 release holds them.
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64"), 8),
}

Shape = tuple[int, ...]


def tensor_bytes(dtype: str, shape: Shape) -> int:
    """How many bytes the data of a tensor takes."""
    return ITEM_BYTES[dtype] * math.prod(shape)


class TensorForm(NamedTuple):
    """Dtype and shape of one tensor, in a file or in memory."""

    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)
