"""From a checkpoint folder to the layers of one rank."""

from collections.abc import Callable

import mlx.core as mx

from dsv4_mlx.broken_kernels import diagnosis
from dsv4_mlx.device import memory
from dsv4_mlx.model.backends import kernel_plan, use_backend
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.pipeline.control import Ranks
from dsv4_mlx.pipeline.part import ModelPart
from dsv4_mlx.pipeline.split import (
    LayerSplit,
    own_parameters,
    require_two,
    split_at,
    split_of,
    stored_bytes,
)
from dsv4_mlx.sizing.held import held_bytes
from dsv4_mlx.unloaded import Tables, pack_layers, with_engram
from dsv4_mlx.warm_up import Shapes, WarmUp
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.fingerprint import name_timelines
from dsv4_mlx.weights.parameters import ParameterPlan
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.reading import DTYPE_NAMES, dense_dtype, read_weights, require_finished
from metal_kernels.registry import KernelPlan


def load_part(
    checkpoint: Checkpoint,
    ranks: Ranks,
    *,
    dtype: mx.Dtype | None = None,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kernels: KernelPlan | None = None,
    kv: str | None = None,
    context: int | None = None,
    tables: Tables | None = None,
    say: Callable[[str], None] | None = None,
    own: range | None = None,
) -> ModelPart:
    """The layers of the rank that `ranks` says this is; the settings are those of `load_model`.
    `own` are others than `split` gives it, as both ranks agreed.

    Of the other rank's tensors no more is read than what names the model (`fingerprint`): the ends
    of each. A folder that `convert --layers` wrote says itself where the model is cut. Kernels are
    compiled meanwhile where the folder has all layers. UsageError unless there are two ranks, and
    for a part of the model that belongs to the other one.
    """
    require_two(ranks)
    kernels = kernels or use_backend(backend)
    dtype = dense_dtype(dtype, kernels.backend)
    plan = plan_parameters(checkpoint)
    require_finished(checkpoint, plan)
    layers, dense = checkpoint.config.num_hidden_layers, DTYPE_NAMES[dtype]
    kept = with_engram({}, checkpoint, plan, tables)
    own = own or _split(checkpoint, kept, dense, ranks.rank()).layers[ranks.rank()]
    part = ModelPart(checkpoint.config, own, numerics, kv=kv, plan=kernels)
    with_engram(part.engrams(), checkpoint, plan, tables)
    mine = own_parameters(kept, own, layers)
    wanted = held_bytes(checkpoint.config, mine.loaded_bytes(dense), context, part.stored)
    warm_up: WarmUp | None = None
    if kernels.backend != "cpu" and checkpoint.layers is None:  # they try layers of all kinds
        shapes = Shapes(checkpoint.config, plan, kernels, numerics, kv, dtype)
        part.explain = diagnosis(shapes)
        if mx.default_device() != mx.cpu:
            warm_up = WarmUp(shapes)
            warm_up.start()
    part.memory = memory.hold(kernels.backend, wanted, say)
    try:
        pack_layers(part, mine.parameters)
        part.load_weights(list(read_weights(checkpoint, mine, dtype)), strict=True)
        part.join()
        name_timelines(part, checkpoint, plan)
        if warm_up is not None:
            warm_up.join()  # as the other rank would wait for what is compiled later
    except BaseException:
        if warm_up is not None:
            warm_up.abandon()
        part.memory.release()
        raise
    part.bytes_loaded = stored_bytes(mine)
    part.memory.end_with(part)
    return part


def checkpoint_split(checkpoint: Checkpoint, backend: str = "auto") -> LayerSplit:
    """How `load_part` cuts a checkpoint; nothing is loaded. Raises as it does."""
    dense = DTYPE_NAMES[dense_dtype(None, kernel_plan(backend).backend)]
    kept = with_engram({}, checkpoint, plan_parameters(checkpoint), None)
    return _split(checkpoint, kept, dense, None)


def _split(checkpoint: Checkpoint, plan: ParameterPlan, dense: str, rank: int | None) -> LayerSplit:
    if checkpoint.layers is not None:
        return split_at(checkpoint.layers, plan, checkpoint.folder, dense, rank)
    return split_of(plan, checkpoint.config.num_hidden_layers, dense)
