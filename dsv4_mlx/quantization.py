"""The release's FP4 and FP8 as MLX's packed formats: which bytes go where, and when it is exact.

FP4 (e2m1, a power-of-two scale per 32 inputs) is MLX's mxfp4 byte for byte. FP8 (e4m3, a scale per
128 x 128 block) is mxfp8 once each scale is repeated for every row and every 32 inputs. Both are
reinterpretations: no value changes. Scales here are numpy arrays, for they are small.
"""

import enum
from typing import Any

import mlx.core as mx
import numpy as np

BLOCK = 128
"""Rows and columns that share one FP8 scale."""
GROUP = 32
"""Inputs that share one scale in mxfp4 and mxfp8."""


class Storage(enum.Enum):
    """How one of our parameters is stored."""

    DENSE = "dense"
    MXFP4 = "mxfp4"
    MXFP8 = "mxfp8"
    BLOCK_FP8 = "block_fp8"
    """FP8 whose scales mxfp8 cannot hold (no powers of two, or a width not divisible by 32);
    multiplied out when it is loaded."""
    AFFINE = "affine"
    """Integers with a scale and an offset per group, as `convert` writes for its recipes."""


Packing = dict[str, Any]
"""`group_size`, `bits` and `mode`, as `mlx.nn.quantize` takes them."""

PACKINGS: dict[Storage, Packing] = {
    Storage.MXFP4: {"group_size": GROUP, "bits": 4, "mode": "mxfp4"},
    Storage.MXFP8: {"group_size": GROUP, "bits": 8, "mode": "mxfp8"},
}
"""The arguments of `mlx.nn.quantize` for the packed kinds."""

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
"""What MLX's affine mode offers."""

# Scale bytes at which every code times its scale is a normal number of bfloat16 and float32.
# Trained weights lie far inside; 255 is NaN in e8m0, but infinity to MLX.
SCALE_BYTES = {Storage.MXFP4: (0, 252), Storage.MXFP8: (3, 246)}


def powers_of_two(scales: np.ndarray) -> bool:
    """Whether float32 scales are all positive powers of two that e8m0 can hold exactly."""
    bits = scales.view(np.uint32)
    return bool(((bits & 0x807FFFFF) == 0).all() and (bits > 0).all())


def to_e8m0(scales: np.ndarray) -> np.ndarray:
    """float32 powers of two -> e8m0 bytes."""
    return (scales.view(np.uint32) >> 23).astype(np.uint8)


def from_e8m0(scales: np.ndarray) -> np.ndarray:
    """e8m0 bytes -> float32 powers of two; the byte 255 must not occur."""
    return np.ldexp(np.float32(1), scales.astype(np.int32) - 127).astype(np.float32)


def rows_of_blocks(scales: np.ndarray, rows: int) -> np.ndarray:
    """[..., ceil(rows / 128), n] -> [..., rows, n]: each block's scale for each of its rows."""
    return scales.repeat(BLOCK, axis=-2)[..., :rows, :]


def groups_of_blocks(scales: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Block scales [..., ceil(rows / 128), ceil(columns / 128)] -> [..., rows, columns / 32]."""
    groups = scales.repeat(BLOCK // GROUP, axis=-1)[..., : columns // GROUP]
    return rows_of_blocks(groups, rows)


def dequantize_blocks(codes: mx.array, scales: mx.array) -> mx.array:
    """e4m3 codes uint8 [..., out, in], float32 scales [..., out, ceil(in / 128)] -> float32.

    One product per element, rounded once to float32: exact for power-of-two scales.
    """
    columns = codes.shape[-1]
    factors = mx.repeat(scales, BLOCK, axis=-1)[..., :columns]
    return mx.from_fp8(codes, mx.float32) * factors
