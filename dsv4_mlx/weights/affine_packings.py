"""Which matrices a conversion packed in affine groups, as its config.json says."""

from collections.abc import Mapping

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import shown
from dsv4_mlx.files.fields import as_whole
from dsv4_mlx.weights.forms import AffineForm
from dsv4_mlx.weights.quantization import AFFINE_BITS, AFFINE_GROUPS


def affine_packings(keys: Mapping[str, object]) -> dict[str, AffineForm]:
    """What config.json says about matrices that `convert` packed in affine groups, by module."""
    entries = keys.get("quantization")
    found: dict[str, AffineForm] = {}
    for module, packing in entries.items() if isinstance(entries, dict) else ():
        if not isinstance(packing, dict) or packing.get("mode") != "affine":
            continue
        bits, group = as_whole(packing.get("bits")), as_whole(packing.get("group_size"))
        if bits not in AFFINE_BITS or group not in AFFINE_GROUPS:
            raise CheckpointError(
                f"config.json packs {shown(module)} as {shown(packing)}, expected bits of "
                f"{AFFINE_BITS} and a group_size of {AFFINE_GROUPS}; convert again."
            )
        found[module] = AffineForm(bits, group)
    return found
