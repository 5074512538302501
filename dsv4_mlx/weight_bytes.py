"""What a checkpoint's weights take in memory, from the headers of its files.

The same rules as in `dsv4_mlx.loading`, applied to names and dtypes alone: no tensor is read. FP8
whose scales only their values could show to be no powers of two counts as packed.
"""

from collections.abc import Mapping
from math import prod

from dsv4_mlx.checkpoint import Checkpoint
from dsv4_mlx.naming import is_draft, repeats_backbone
from dsv4_mlx.quantization import GROUP
from dsv4_mlx.safetensors_files import TensorEntry

_EMBEDDINGS = ("embed.weight", "model.embed_tokens.weight")


def weight_bytes(checkpoint: Checkpoint, *, dense: int = 2) -> int:
    """Bytes of all arrays once loaded; `dense` are those of one number of an unpacked matrix: 2 on
    a GPU, 4 on a CPU."""
    tensors = checkpoint.tensors
    has_unused_drafts = checkpoint.config.draft_kind == "dspark"
    return sum(
        _loaded(entry, tensors, dense)
        for name, entry in tensors.items()
        if not repeats_backbone(name) and not (has_unused_drafts and is_draft(name))
    )


def _loaded(entry: TensorEntry, tensors: Mapping[str, TensorEntry], dense: int) -> int:
    count = prod(entry.shape)
    match entry.dtype:
        case "I64":
            return 4 * count
        case "F8_E4M3":
            packs = entry.shape[-1] % GROUP == 0
            return count + count // GROUP if packs else dense * count
        case "U32" if f"{entry.name.removesuffix('weight')}block_scales" in tensors:
            return dense * entry.nbytes  # four FP8 codes a word, multiplied out
        case "BF16" if entry.name.endswith((".scales", ".biases")) or len(entry.shape) == 1:
            return 4 * count
        case "BF16" if entry.name not in _EMBEDDINGS:
            return dense * count
        case _:
            return entry.nbytes
