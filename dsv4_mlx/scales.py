"""The scales of one packed matrix, read, checked and spread over its rows.

Numpy throughout: scales are small beside the weights they belong to.
"""

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.parameters import Part, read_float_scales
from dsv4_mlx.quantization import (
    SCALE_BYTES,
    Storage,
    from_e8m0,
    groups_of_blocks,
    rows_of_blocks,
    to_e8m0,
)
from dsv4_mlx.safetensors_files import TensorEntry


def packed_scales(part: Part, storage: Storage) -> np.ndarray:
    """uint8 e8m0 [..., out, in / 32] as MLX wants them, each in the range where MLX is exact."""
    entry = _entry(part)
    scales = to_e8m0(read_float_scales(entry)) if entry.dtype == "F32" else entry.read()
    low, high = SCALE_BYTES[storage]
    _require_bytes(entry, scales, low, high)
    return groups_of_blocks(scales, *part.shape[-2:]) if part.scales_are_per_block else scales


def row_scales(part: Part) -> np.ndarray:
    """float32 [..., out, ceil(in / 128)]: one factor per row and 128 inputs."""
    entry = _entry(part)
    if entry.dtype == "F32":
        scales = read_float_scales(entry)
    else:
        scales = entry.read()
        _require_bytes(entry, scales, 0, 254)
        scales = from_e8m0(scales)
    return rows_of_blocks(scales, part.shape[-2]) if part.scales_are_per_block else scales


def _entry(part: Part) -> TensorEntry:
    if part.scales is None:
        raise LookupError(f"{part.weight.name} has no scales")
    return part.scales


def _require_bytes(entry: TensorEntry, scales: np.ndarray, low: int, high: int) -> None:
    for byte in (scales.min(), scales.max()):
        if not low <= byte <= high:
            raise CheckpointError(
                f"{entry.name} in {entry.path.name} holds the scale byte {byte}"
                f"{' (NaN)' if byte == 255 else ''}, expected {low} to {high}; download the file "
                "again."
            )
