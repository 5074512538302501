"""How much memory the routed experts of a model get, where not all of them are loaded.

The check is that of `memory`, where pools of experts count with the other weights, the cache of a
short conversation, and two whole layers and all streams of a prompt while one is read.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from cli.machine import memory
from cli.machine.machine import Machine
from cli.machine.memory import SHORT_CONTEXT, Fit, is_small, size
from dsv4_mlx.errors import UsageError
from dsv4_mlx.sizing.expert_memory import expert_slots, few_slots
from dsv4_mlx.sizing.machines import WORKING_BYTES
from dsv4_mlx.sizing.passes import OFFICIAL_BYTES
from dsv4_mlx.sizing.streamed import StreamedWeights, enough_slots

if TYPE_CHECKING:
    from dsv4_mlx.release.config import DeepseekV4Config
    from dsv4_mlx.sizing.costs import Kv
    from dsv4_mlx.weights.checkpoint import Checkpoint, ModelFolder

ExpertMemory = int | Literal["auto"]
"""Bytes for experts, or as many as there is room for where the model does not fit."""
_GB = 10**9


def bytes_for_experts(
    folder: "ModelFolder",
    asked: ExpertMemory = "auto",
    kv: "Kv" = "compact",
    *,
    backend: str = "auto",
    machine: Machine | None = None,
) -> int | None:
    """Bytes of memory for routed experts, the others staying in their files; None where all of the
    model is loaded.

    Raises UsageError with figures for a model, or a size, that there is no memory for, and
    CheckpointError for damaged files.
    """
    if asked == "auto" and is_small(folder.folder, machine or memory.read_machine()):
        return None
    fit = Fit.of(folder.checkpoint, kv, backend=backend, machine=machine)
    context = _context(fit)
    if asked == "auto" and fit.fits(context):
        return None
    weights = _weights(folder.checkpoint, fit)
    if asked != "auto":
        return _checked(fit, weights, asked)
    if (pools := automatic(fit, weights)) is None:
        raise UsageError(f"{fit.sentence(context).rstrip('.')}{_too_few(fit, weights)}.")
    return pools


def automatic(fit: Fit, weights: StreamedWeights) -> int | None:
    """Bytes for experts that a model gets which does not fit: as many as there is room for, whole
    experts of every layer; None where these are too few, or the model fits."""
    context = _context(fit)
    if fit.limit is None or fit.backend == "cuda" or fit.layers is not None or fit.fits(context):
        return None
    slots = weights.slots(weights.pools_in(fit.limit, context, fit.kv))
    return slots * weights.slot_bytes if slots >= enough_slots(fit.config) else None


def streamed(fit: Fit, weights: StreamedWeights, pools: int) -> Fit:
    """The same model with `pools` bytes for experts in the place of all of them."""
    kept = weights.resident + weights.staging_bytes + pools
    return replace(fit, weights=kept, drafts=0, dropped=0, by_layers=OFFICIAL_BYTES)


def fit_of(
    checkpoint: "Checkpoint", pools: int | None, kv: "Kv" = "compact", *, backend: str = "auto"
) -> Fit:
    """How a checkpoint stands to this machine with so many bytes for experts, None for all."""
    fit = Fit.of(checkpoint, kv, backend=backend)
    return fit if pools is None else streamed(fit, _weights(checkpoint, fit), pools)


def sentences(config: "DeepseekV4Config", slots: int, pools: int) -> list[str]:
    """What is in memory of a model's experts, `pools` bytes, and whether it is too little."""
    what = (
        f"experts are read from the disk: {slots} of {config.n_routed_experts} of each layer are "
        f"in memory ({pools / _GB:.1f} GB), and drafts are off"
    )
    few = few_slots(config, slots)
    return [what, few.rstrip(".")] if few else [what]


def _checked(fit: Fit, weights: StreamedWeights, asked: int) -> int:
    """The size that was asked for, once it holds what a token needs and fits."""
    slots = expert_slots(fit.config, weights.slot_bytes, asked)
    context, pools = _context(fit), slots * weights.slot_bytes
    whole = slots == fit.config.n_routed_experts
    one = fit if whole else streamed(fit, weights, pools)
    if one.fits(context):
        return asked
    if whole:
        raise UsageError(f"{fit.sentence(context).rstrip('.')}{_most(fit, weights)}.")
    streams = one.streams(context)
    cache = one.needed(context) - one.weights - streams - WORKING_BYTES
    raise UsageError(
        f"expert memory of {asked / _GB:.1f} GB does not fit: {size(one.needed(context))} are "
        f"needed (experts {size(pools)}, two layers while a prompt is read "
        f"{size(weights.staging_bytes)} and its streams {size(streams)}, other weights "
        f"{size(weights.resident)}, cache {size(cache)} at {context:,} tokens, program "
        f"{size(WORKING_BYTES)}) and "
        f"{size(fit.limit or 0)} may be used here{_most(fit, weights)}."
    )


def _most(fit: Fit, weights: StreamedWeights) -> str:
    """What would fit of a size that does not, to end a sentence."""
    most = weights.pools_in(fit.limit or 0, _context(fit), fit.kv)
    if weights.slots(most) < fit.config.num_experts_per_tok:
        return "; not even the experts of one token would"
    # In tenths, rounded down, so that what is said fits.
    return f"; give at most {most // (_GB // 10) / 10:.1f} GB"


def _too_few(fit: Fit, weights: StreamedWeights) -> str:
    """Why experts are not read from the disk by themselves, after a sentence that refuses."""
    if fit.backend == "cuda":
        return ""
    context, enough = _context(fit), enough_slots(fit.config)
    slots = weights.slots(weights.pools_in(fit.limit or 0, context, fit.kv))
    if slots < fit.config.num_experts_per_tok:
        return ""
    return (
        f". With its experts on the disk {slots} of each layer would fit, fewer than {enough}: "
        f"--expert-memory '{slots * weights.slot_bytes / _GB:.2f} GB' tries it, slowly"
    )


def _weights(checkpoint: "Checkpoint", fit: Fit) -> StreamedWeights:
    from dsv4_mlx.sizing.weight_bytes import streamed_weights

    return streamed_weights(checkpoint, dense=4 if fit.backend == "cpu" else 2)


def _context(fit: Fit) -> int:
    return min(SHORT_CONTEXT, fit.config.max_position_embeddings)
