"""What a checkpoint's weights take in memory, from the headers of its files.

The forms of `dsv4_mlx.weights.forms`, told by names and dtypes alone: no tensor is read. FP8 whose
scales only their values could show to be no powers of two counts as packed.
"""

from dsv4_mlx.files.safetensors_dtypes import TensorForm
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.naming import is_draft, is_table, repeats_backbone
from dsv4_mlx.sizing.streamed import StreamedWeights
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.forms import DRAFT_HEAD, BlockFp8Form, DenseForm, fp8_form, total_bytes

_EMBEDDINGS = ("embed.weight", "model.embed_tokens.weight")
_HEADS = ("head.weight", "lm_head.weight")
_DENSE = {2: "BF16", 4: "F32"}


def weight_bytes(checkpoint: Checkpoint, *, dense: int = 2) -> int:
    """Bytes of all arrays once loaded; `dense` are those of one number of an unpacked matrix: 2 on
    a GPU, 4 on a CPU. MTP blocks count, DSpark's stages do not. Of Engram's tables that stay in
    files the rows count that are kept."""
    engram = checkpoint.config.engram
    in_files = engram is not None and engram.stays_in_files
    has_unused_drafts = checkpoint.config.draft_kind == "dspark"
    kept = 0 if engram is None or not in_files else engram.held_bytes
    return kept + sum(
        _loaded(entry, checkpoint, _DENSE[dense])
        for name, entry in checkpoint.tensors.items()
        if not repeats_backbone(name)
        and not (has_unused_drafts and is_draft(name))
        and not (in_files and is_table(name))
    )


def draft_bytes(checkpoint: Checkpoint, *, dense: int = 2) -> int:
    """Bytes that drafts take, 0 without any: `block_bytes`, on a GPU with the head's copy in eight
    bits."""
    blocks = block_bytes(checkpoint, dense=dense)
    return blocks + (draft_head_bytes(checkpoint) if blocks and dense == 2 else 0)


def block_bytes(checkpoint: Checkpoint, *, dense: int = 2) -> int:
    """Bytes of the draft blocks once loaded, MTP blocks or DSpark's stages."""
    return sum(
        _loaded(entry, checkpoint, _DENSE[dense])
        for name, entry in checkpoint.tensors.items()
        if is_draft(name) and not repeats_backbone(name)
    )


def streamed_weights(checkpoint: Checkpoint, *, dense: int = 2) -> StreamedWeights:
    """What the checkpoint takes with its routed experts left in files; see `weight_bytes`."""
    config = checkpoint.config
    experts = [one for name, one in checkpoint.tensors.items()
               if ".experts." in name and not is_draft(name)]  # fmt: skip
    in_memory = sum(_loaded(one, checkpoint, _DENSE[dense]) for one in experts)
    drafts = block_bytes(checkpoint, dense=dense) if config.draft_kind == "mtp" else 0
    resident = weight_bytes(checkpoint, dense=dense) - drafts - in_memory
    embedding = sum(checkpoint.tensors[name].nbytes for name in _EMBEDDINGS
                    if name in checkpoint.tensors)  # fmt: skip
    count = config.n_routed_experts
    return StreamedWeights(
        config,
        resident=resident,
        read=resident - embedding,
        slot_bytes=in_memory // count,
        file_bytes=sum(one.nbytes for one in experts) // count,
    )


def draft_head_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the head's copy for drafts, 0 where the head is packed already."""
    dtypes = {one.dtype for name in _HEADS if (one := checkpoint.tensors.get(name))}
    shape = checkpoint.config.vocab_size, checkpoint.config.hidden_size
    if not dtypes <= {"BF16", "F32"} or shape[1] % DRAFT_HEAD.group_size:
        return 0
    return total_bytes(DRAFT_HEAD.loaded(shape, "BF16"))


def _loaded(entry: TensorEntry, checkpoint: Checkpoint, dense: str) -> int:
    name, shape, block = entry.name, entry.shape, checkpoint.fp8_block
    match entry.dtype:
        case "F8_E4M3":
            return total_bytes(fp8_form(shape[-1], block).loaded(shape, dense))
        case "F8_E8M0" if is_table(name):
            return 0  # counted with the codes
        case "U32" if f"{name.removesuffix('weight')}block_scales" in checkpoint.tensors:
            codes = (entry.nbytes,)  # four in a word
            return total_bytes(BlockFp8Form(block).loaded(codes, dense))
        case "BF16" if name.endswith((".scales", ".biases")):
            return TensorForm("F32", shape).nbytes
        case "BF16" | "I64":
            form = DenseForm(entry.dtype, table=name in _EMBEDDINGS)
            return total_bytes(form.loaded(shape, dense))
        case _:
            return entry.nbytes
