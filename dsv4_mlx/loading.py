"""From a checkpoint folder to a model that runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import mlx.core as mx

from dsv4_mlx.broken_kernels import diagnosis
from dsv4_mlx.device import memory
from dsv4_mlx.device.row_finding import RowFinding
from dsv4_mlx.errors import UsageError
from dsv4_mlx.exact_rows.at_load import (
    KeptFindings,
    LoadedRows,
    RowTest,
    machine_name,
    rows_to_find,
    storage_of,
)
from dsv4_mlx.model.backends import kernel_plan, use_backend
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.sizing.held import held_bytes
from dsv4_mlx.sizing.weight_bytes import draft_head_bytes
from dsv4_mlx.unloaded import Tables, pack_layers, with_engram
from dsv4_mlx.warm_up import Shapes, WarmUp, session_launches
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from dsv4_mlx.weights.fingerprint import name_timelines
from dsv4_mlx.weights.parameters import ParameterPlan
from dsv4_mlx.weights.planning import CONFIDENCE, plan_parameters
from dsv4_mlx.weights.reading import (
    DTYPE_NAMES,
    dense_dtype,
    read_weights,
    require_finished,
    require_whole,
)
from metal_kernels.registry import KernelPlan

if TYPE_CHECKING:
    from dsv4_mlx.chat.tokenizer import Tokenizer
    from dsv4_mlx.model.v4 import Model
    from dsv4_mlx.pipeline.control import Ranks
    from dsv4_mlx.pipeline.part import ModelPart
    from dsv4_mlx.sizing.costs import Kv
    from dsv4_mlx.streamed import StreamedPlan


@overload
def load(
    path: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kv: str | None = None,
    context: int | None = None,
    tables: Tables | None = None,
    pipeline: None = None,
    expert_memory: int | None = None,
) -> tuple["Model", "Tokenizer"]: ...


@overload
def load(
    path: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kv: str | None = None,
    context: int | None = None,
    tables: Tables | None = None,
    pipeline: "Ranks",
) -> tuple["ModelPart", "Tokenizer"]: ...


def load(
    path: str | Path,
    *,
    dtype: mx.Dtype | None = None,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kv: str | None = None,
    context: int | None = None,
    tables: Tables | None = None,
    pipeline: "Ranks | None" = None,
    expert_memory: int | None = None,
) -> tuple["Model | ModelPart", "Tokenizer"]:
    """Load an official or a converted folder -> (model, tokenizer).

    `dtype` (bfloat16 or float32) is that of unpacked matrices; by default float32 on a CPU, whose
    products need it, and on a GPU bfloat16, as they are stored: its kernels multiply them exactly.
    `kv` (`compact`, the default, or `bf16`) says how caches store rows. The embedding stays
    bfloat16; norms and what is stored in float32 are float32. `model.fingerprint` names the
    weights that decide a timeline. On Metal the model stays resident in memory, with the cache of
    `context` tokens (see `device.memory`). `tables` says whether Engram's lie in memory or are read
    from their files row by row, by default from files above a GiB; no released V4 has any. With
    `pipeline`, a group of `mx.distributed` of two ranks, only this rank's layers are read: see
    `dsv4_mlx.pipeline`. `expert_memory` are bytes for routed experts in memory, as many of each
    layer; others are read from the folder when a token chooses them, with the same results (see
    `dsv4_mlx.streamed`). Raises CheckpointError, ConfigError, BackendError or UsageError, each a
    sentence.
    """
    from dsv4_mlx.chat.tokenizer import Tokenizer

    kernels = use_backend(backend)
    dtype = dense_dtype(dtype, kernels.backend)
    checkpoint = open_checkpoint(path)
    if pipeline is not None:
        if expert_memory is not None:
            raise UsageError("A model in two parts holds its experts; leave expert_memory out.")
        from dsv4_mlx.pipeline.part_loading import load_part

        part = load_part(
            checkpoint,
            pipeline,
            dtype=dtype,
            numerics=numerics,
            kv=kv,
            context=context,
            kernels=kernels,
            tables=tables,
        )
        return part, Tokenizer(checkpoint.folder)
    model = load_model(
        checkpoint,
        dtype=dtype,
        numerics=numerics,
        kv=kv,
        context=context,
        kernels=kernels,
        tables=tables,
        expert_memory=expert_memory,
    )
    return model, Tokenizer(checkpoint.folder)


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    numerics: Numerics = Numerics.OFFICIAL,
    backend: str = "auto",
    kv: str | None = None,
    context: int | None = None,
    kernels: KernelPlan | None = None,
    tables: Tables | None = None,
    drafts: bool | None = None,
    rows: RowTest | None = None,
    draft_head: bool | None = None,
    expert_memory: int | None = None,
    say: Callable[[str], None] | None = None,
) -> "Model":
    """The model of an opened checkpoint, its weights read; see `load`.

    `kernels` take the place of `backend` and leave MLX's device alone. Where memory should stay
    resident and cannot, `say` gets a sentence; the log does by default. `model.memory` is what is
    held, until the model is gone or lets go of it. `drafts` says whether the checkpoint's draft
    blocks are read; by default MTP blocks are and DSpark's stages are not. `rows` finds on a GPU,
    for a model that drafts, how many rows of a call are exact, and the model reads so many then.
    `draft_head` says whether drafts read a copy of the head in eight bits, as on a GPU by default.
    With `expert_memory` for fewer than all experts nothing drafts, and `say` hears of few slots.
    """
    from dsv4_mlx.model.v4 import Model

    kernels = kernels or use_backend(backend)
    dtype = dense_dtype(dtype, kernels.backend)
    plan = _plan_of(checkpoint)
    model = Model(checkpoint.config, numerics=numerics, kv=kv, plan=kernels)
    streamed = None if expert_memory is None else _streamed(checkpoint, plan, expert_memory)
    kept = with_engram(model.engrams(), checkpoint, streamed.kept if streamed else plan, tables)
    kept = _with_drafts(model, kept, drafts if streamed is None else False)
    packs_head = kernels.backend != "cpu" if draft_head is None else draft_head
    beside = draft_head_bytes(checkpoint) if packs_head and model["mtp"] else 0
    weights = kept.loaded_bytes(DTYPE_NAMES[dtype]) + beside
    model.memory = _held(model, kernels, weights, streamed, context, say)
    try:
        if streamed is not None:
            streamed.use_in(model)
        pack_layers(model, kept.parameters)
        tested = rows_to_find(model, plan, kernels, DTYPE_NAMES[dtype], rows)
        shapes = Shapes(checkpoint.config, plan, kernels, numerics, kv, dtype)
        warm_up = _warm_up(model, shapes, tested, streamed)
        model.load_weights(list(read_weights(checkpoint, kept, dtype)), strict=True)
        model.join()
        if packs_head:
            model.pack_draft_head()
        name_timelines(model, checkpoint, plan)
        if streamed is not None:
            streamed.begin(model)
        if tested is not None:
            tested.decide(model, lambda: None if warm_up is None else warm_up.join())
    except BaseException:
        _let_go(model)
        raise
    model.memory.end_with(model)
    return model


def _plan_of(checkpoint: Checkpoint) -> ParameterPlan:
    """What there is to be read; CheckpointError for a part of a folder, or an unfinished one."""
    require_whole(checkpoint)
    plan = plan_parameters(checkpoint)
    require_finished(checkpoint, plan)
    return plan


def _held(
    model: "Model",
    kernels: KernelPlan,
    weights: int,
    streamed: "StreamedPlan | None",
    context: int | None,
    say: Callable[[str], None] | None,
) -> memory.HeldMemory:
    """What stays resident for `weights` bytes, for experts that come and go, and for a cache."""
    stored = _stored(model)
    if streamed is not None:
        backend, numerics = kernels.backend, model.numerics
        weights += streamed.room_for(backend, weights, context, stored, say, numerics)
    return memory.hold(kernels.backend, held_bytes(model.config, weights, context, stored), say)


def _let_go(model: "Model") -> None:
    """Of what was begun for a model that could not be read."""
    if model.at_first_call is not None:
        model.at_first_call()
    model.memory.release()


def _warm_up(
    model: "Model", shapes: Shapes, tested: LoadedRows | None, streamed: "StreamedPlan | None"
) -> WarmUp | None:
    """Explain a GPU's errors, and begin to build the forms of its kernels; None where none are."""
    if shapes.kernels.backend == "cpu":
        return None
    slots = None if streamed is None else streamed.slots
    shapes = replace(shapes, rows=1 if tested is None else tested.rows, slots=slots)
    model.explain = diagnosis(shapes)
    if mx.default_device() == mx.cpu:
        return None
    warm_up = WarmUp(shapes)
    warm_up.start()
    model.at_first_call, model.finish_warm_up = warm_up.abandon, warm_up.join
    return warm_up


def _streamed(checkpoint: Checkpoint, plan: ParameterPlan, memory: int) -> "StreamedPlan | None":
    """Which experts stay in files where `memory` bytes are for them; None where all fit."""
    from dsv4_mlx.streamed import streamed_plan

    return streamed_plan(checkpoint.config, plan, memory)


def _with_drafts(model: "Model", plan: ParameterPlan, wanted: bool | None) -> ParameterPlan:
    """Give the model DSpark's stages, or take its MTP blocks; what is to be read then."""
    if wanted is False:
        model["mtp"] = []
        return plan.bare()
    if not wanted or not plan.drafts:
        return plan
    model.add_stages()
    if not any(one.name.endswith(CONFIDENCE) for one in plan.drafts):
        model.stages[-1].confidence_head = None
    return ParameterPlan((*plan.parameters, *plan.drafts), plan.set_aside)


def _stored(model: "Model") -> "Kv":
    """How the model's caches keep rows, as sizes are told."""
    return "compact" if model.layout.name == "compact" else "bf16"


def recorded_rows(
    checkpoint: Checkpoint, kept: KeptFindings, *, backend: str = "auto", kv: str | None = None
) -> RowFinding | None:
    """What a load of this checkpoint found here of rows that keep their bits; None before one did,
    and on a CPU. Raises CheckpointError and BackendError."""
    kernels = kernel_plan(backend)
    if kernels.backend == "cpu":
        return None
    dtype, numerics = dense_dtype(None, kernels.backend), Numerics.OFFICIAL
    plan, storage = plan_parameters(checkpoint), storage_of(numerics, kv)
    name = machine_name(checkpoint.config, plan, kernels, DTYPE_NAMES[dtype], numerics, storage)
    return LoadedRows(RowTest(kept), kernels, name).found


def session_kernels(
    checkpoint: Checkpoint, *, backend: str = "auto", kv: str | None = None
) -> list[str]:
    """The forms of kernels that are compiled while this checkpoint loads; none on a CPU. Raises
    CheckpointError and BackendError."""
    kernels = kernel_plan(backend)
    if kernels.backend == "cpu":
        return []
    dtype = dense_dtype(None, kernels.backend)
    plan = plan_parameters(checkpoint)
    shapes = Shapes(checkpoint.config, plan, kernels, Numerics.OFFICIAL, kv, dtype)
    return [str(variant) for variant in session_launches(shapes.blank())]
