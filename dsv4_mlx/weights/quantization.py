"""The packed formats: names, sizes of groups, and where MLX's arithmetic is exact.

FP4 (e2m1, a power-of-two scale per 32 inputs) is MLX's mxfp4 byte for byte. FP8 (e4m3, a scale per
block of rows and inputs) is mxfp8 once each scale is repeated for every row and every 32 inputs.
Both are reinterpretations: no value changes.
"""

import enum
from typing import Any

GROUP = 32
"""Inputs that share one scale in mxfp4 and mxfp8."""


class WeightStorage(enum.Enum):
    """How one of our parameters is stored."""

    DENSE = "dense"
    MXFP4 = "mxfp4"
    MXFP8 = "mxfp8"
    BLOCK_FP8 = "block_fp8"
    """FP8 whose scales mxfp8 cannot hold (no powers of two, or a width not divisible by 32);
    multiplied out when it is loaded."""
    AFFINE = "affine"
    """Integers with a scale and an offset per group, as `convert` writes for its recipes."""


PackingKeys = dict[str, Any]
"""`group_size`, `bits` and `mode`, as `mlx.nn.quantize` takes them."""

PACKINGS: dict[WeightStorage, PackingKeys] = {
    WeightStorage.MXFP4: {"group_size": GROUP, "bits": 4, "mode": "mxfp4"},
    WeightStorage.MXFP8: {"group_size": GROUP, "bits": 8, "mode": "mxfp8"},
}
"""The arguments of `mlx.nn.quantize` for the packed kinds."""

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
"""What MLX's affine mode offers."""

# Scale bytes at which every code times its scale is a normal number of bfloat16 and float32.
# Trained weights lie far inside; 255 is NaN in e8m0, but infinity to MLX.
SCALE_BYTES = {WeightStorage.MXFP4: (0, 252), WeightStorage.MXFP8: (3, 246)}
