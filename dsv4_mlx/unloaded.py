"""A model before its weights are read, and a cache before a prompt was: shapes without values."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.nn.layers.quantized import quantize

from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.reading import MLX_DTYPES
from dsv4_mlx.weights.table_rows import TableFile, token_map_of, without_tables

if TYPE_CHECKING:
    from dsv4_mlx.cache import LayerCache
    from dsv4_mlx.model.engram import Engram
    from dsv4_mlx.model.v4 import Model

Tables = Literal["memory", "files"]
"""Where Engram's tables lie while a model is used."""


def pack_layers(model: nn.Module, parameters: Iterable[Parameter]) -> None:
    """Make the layers of packed parameters packed ones, ready for their weights."""
    packings = {one.module: one.packing for one in parameters if one.packing is not None}
    quantize(model, class_predicate=lambda name, _: packings.get(name, False))


def with_engram(
    engrams: "Mapping[int, Engram]",
    checkpoint: Checkpoint,
    plan: ParameterPlan,
    tables: Tables | None,
) -> ParameterPlan:
    """Give Engram its token map and, where tables stay in files, these; what is left to be read."""
    engram = checkpoint.config.engram
    if engram is None:
        return plan
    token_map = token_map_of(checkpoint, engram)
    for one in engrams.values():
        one.use_token_map(token_map)
    if tables == "memory" or (tables is None and not engram.stays_in_files):
        return plan
    kept, in_files = without_tables(plan)
    for layer, one in engrams.items():
        one.stream_from(TableFile(in_files[layer]))
    return kept


def place_zeros(model: "Model", plan: ParameterPlan, dense: str) -> None:
    """Give `model` weights as a loader leaves them, unevaluated; `dense` is BF16 or F32.

    Weights of the plan that the model lacks are left out.
    """
    own = {module for module, _ in model.named_modules()}
    parameters = [one for one in plan.parameters if one.module in own]
    pack_layers(model, parameters)
    plan = ParameterPlan(tuple(parameters), ())
    weights = [
        (name, mx.zeros(form.shape, MLX_DTYPES[form.dtype])) for name, form in plan.loaded(dense)
    ]
    model.load_weights(weights, strict=True)
    for engram in model.engrams().values():
        engram.use_token_map(np.zeros(model.config.vocab_size, np.int32))
    for joined in model.joined():
        joined.join()
    model.model.is_paced = False


def cache_after(model: "Model", context: int, batch: int) -> "list[LayerCache]":
    """The cache of `batch` timelines at `context` tokens, unevaluated: no prompt was run."""
    from dsv4_mlx.cache.forms import state_forms
    from dsv4_mlx.cache.state import new_state

    cache = model.make_cache()
    for number, layer in enumerate(cache):
        forms = state_forms(model.config, model.layout, number, context)
        layer.rows = [new_state(layer.role, layer.layout) for _ in range(batch)]
        for state in layer.rows:
            state.fill(context, {name: mx.zeros(*form) for name, form in forms.items()})
    return cache
