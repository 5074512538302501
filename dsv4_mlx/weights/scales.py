"""The scales of packed matrices: read, checked, spread over rows, and whether mxfp8 holds them.

Numpy throughout: scales are small beside the weights they belong to.
"""

from collections.abc import Iterator

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import CHUNK_BYTES, TensorEntry
from dsv4_mlx.weights.forms import BlockFp8Form, Mxfp4Form, Mxfp8Form
from dsv4_mlx.weights.parameters import Part
from dsv4_mlx.weights.quantization import GROUP, SCALE_BYTES, WeightStorage


def packed_scales(part: Part, form: Mxfp4Form | Mxfp8Form) -> np.ndarray:
    """uint8 e8m0 [..., out, in / 32] as MLX wants them, each in the range where MLX is exact."""
    entry = _entry(part)
    scales = to_e8m0(read_float_scales(entry)) if entry.dtype == "F32" else entry.read()
    low, high = SCALE_BYTES[form.storage]
    require_bytes(entry, scales, low, high)
    if isinstance(form, Mxfp8Form) and part.scales_are_per_block:
        rows, columns = part.shape[-2:]
        return groups_of_blocks(scales, rows, columns, form.block)
    return scales


def checked_scales(part: Part, form: Mxfp8Form) -> Iterator[memoryview]:
    """`packed_scales` of rows with scales of their own, in pieces; each is valid until the next."""
    entry = _entry(part)
    for chunk in entry.views(bytearray(min(entry.nbytes, CHUNK_BYTES))):
        require_bytes(entry, np.frombuffer(chunk, np.uint8), *SCALE_BYTES[form.storage])
        yield chunk


def row_scales(part: Part, form: BlockFp8Form) -> np.ndarray:
    """float32 [..., out, ceil(in / block)]: one factor per row and block of inputs."""
    entry = _entry(part)
    if entry.dtype == "F32":
        scales = read_float_scales(entry)
    else:
        scales = entry.read()
        require_bytes(entry, scales, 0, 254)
        scales = from_e8m0(scales)
    if part.scales_are_per_block:
        return rows_of_blocks(scales, part.shape[-2], form.block)
    return scales


def fits_mxfp8(part: Part) -> bool:
    """Whether the scales are powers of two; the release's float32 ones are read to find out."""
    if part.scales is None or part.scales.dtype != "F32":
        return True
    if not part.scales_are_per_block:
        return False  # our `block_scales`, written because they are no powers of two
    scales = read_float_scales(part.scales)
    low, high = SCALE_BYTES[WeightStorage.MXFP8]
    if not powers_of_two(scales):
        return False
    exponents = to_e8m0(scales)
    return bool((exponents >= low).all() and (exponents <= high).all())


def read_float_scales(entry: TensorEntry) -> np.ndarray:
    """float32 scales, checked: each must be a positive number."""
    scales = entry.read()
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        bad = scales[~(np.isfinite(scales) & (scales > 0))][0]
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} holds the scale {bad}, expected positive numbers; "
            "download the file again."
        )
    return scales


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


def rows_of_blocks(scales: np.ndarray, rows: int, block: int) -> np.ndarray:
    """[..., ceil(rows / block), n] -> [..., rows, n]: each block's scale for each of its rows."""
    return scales.repeat(block, axis=-2)[..., :rows, :]


def groups_of_blocks(scales: np.ndarray, rows: int, columns: int, block: int) -> np.ndarray:
    """Scales [..., ceil(rows / block), ceil(columns / block)] -> [..., rows, columns / 32]."""
    groups = scales.repeat(block // GROUP, axis=-1)[..., : columns // GROUP]
    return rows_of_blocks(groups, rows, block)


def _entry(part: Part) -> TensorEntry:
    if part.scales is None:
        raise LookupError(f"{part.weight.name} has no scales")
    return part.scales


def require_bytes(entry: TensorEntry, scales: np.ndarray, low: int, high: int) -> None:
    for byte in (scales.min(), scales.max()):
        if not low <= byte <= high:
            raise CheckpointError(
                f"{entry.name} in {entry.path.name} holds the scale byte {byte}"
                f"{' (NaN)' if byte == 255 else ''}, expected {low} to {high}; download the file "
                "again."
            )
