"""What a conversion will write, down to the byte, before it writes any.

The `native` recipe changes no value: codes are copied as byte ranges, the experts of a layer one
after another, and only scales are spread and routing tables narrowed to int32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsv4_mlx.checkpoint import CONVERSION_FILE, Checkpoint
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.parameters import Parameter, ParameterPlan, Part, plan_parameters
from dsv4_mlx.quantization import BLOCK, GROUP, PACKINGS, Storage
from dsv4_mlx.safetensors_files import TensorEntry, TensorPlan
from dsv4_mlx.scales import packed_scales, row_scales

MAX_SHARD_BYTES = 5 << 30
DRAFT_FILE = "draft.safetensors"
"""What this program does not run but keeps, under its official names."""

RECIPES = {"native": "every value as released: FP4 experts as mxfp4, FP8 as mxfp8"}


@dataclass(frozen=True)
class Shard:
    """One file to be written."""

    file: str
    tensors: tuple[TensorPlan, ...]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class ConversionPlan:
    """Everything that `writer` needs: shards, the new config.json, where it comes from."""

    recipe: str
    source: Checkpoint
    parameters: ParameterPlan
    shards: tuple[Shard, ...]
    drafts: Shard
    config: dict[str, Any]

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in (*self.shards, self.drafts))


def plan_conversion(
    source: Checkpoint, recipe: str = "native", max_shard_bytes: int = MAX_SHARD_BYTES
) -> ConversionPlan:
    """Plan one conversion; UsageError for an unknown recipe or a folder already converted."""
    if recipe not in RECIPES:
        raise UsageError(f"recipe is {recipe!r}, expected one of: {', '.join(RECIPES)}.")
    if (source.folder / CONVERSION_FILE).exists():
        raise UsageError(f"{source.folder} is already converted; give the official folder.")
    parameters = plan_parameters(source)
    tensors = [tensor for one in parameters.parameters for tensor in _tensors(source, one)]
    return ConversionPlan(
        recipe,
        source,
        parameters,
        tuple(_shards(tensors, max_shard_bytes)),
        Shard(DRAFT_FILE, tuple(_copy(entry) for entry in parameters.set_aside)),
        _config(source, parameters),
    )


def _shards(tensors: list[TensorPlan], max_bytes: int) -> Iterator[Shard]:
    groups: list[list[TensorPlan]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.nbytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    for number, group in enumerate(groups, 1):
        yield Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))


def _tensors(source: Checkpoint, parameter: Parameter) -> Iterator[TensorPlan]:
    """One or two tensors of the new checkpoint."""
    name, shape, storage = parameter.name, parameter.shape, parameter.storage
    if storage is Storage.DENSE:
        yield _dense(source, parameter)
        return
    if storage is Storage.BLOCK_FP8:
        blocks = -(-shape[-1] // BLOCK)
        yield TensorPlan(name, "F8_E4M3", shape, lambda: _codes(parameter))
        yield TensorPlan(
            f"{parameter.module}.block_scales",
            "F32",
            (*shape[:-1], blocks),
            lambda: (row_scales(part).tobytes() for part in parameter.parts),
        )
        return
    per_word = 8 if storage is Storage.MXFP4 else 4
    yield TensorPlan(name, "U32", (*shape[:-1], shape[-1] // per_word), lambda: _codes(parameter))
    yield TensorPlan(
        f"{parameter.module}.scales",
        "U8",
        (*shape[:-1], shape[-1] // GROUP),
        lambda: (_packed(part, storage) for part in parameter.parts),
    )


def _packed(part: Part, storage: Storage) -> bytes:
    return packed_scales(part, storage).tobytes()


def _codes(parameter: Parameter) -> Iterator[bytes]:
    for part in parameter.parts:
        yield from part.weight.chunks()


def _dense(source: Checkpoint, parameter: Parameter) -> TensorPlan:
    entry = parameter.parts[0].weight
    if parameter.field != "tid2eid":
        return TensorPlan(parameter.name, entry.dtype, entry.shape, entry.chunks)
    experts = source.config.n_routed_experts
    return TensorPlan(parameter.name, "I32", entry.shape, lambda: [_expert_table(entry, experts)])


def _expert_table(entry: TensorEntry, experts: int) -> bytes:
    table = entry.read()
    if table.min() < 0 or table.max() >= experts:
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} holds an expert outside 0 to {experts - 1}; "
            "download the file again."
        )
    return table.astype(np.int32).tobytes()


def _copy(entry: TensorEntry) -> TensorPlan:
    return TensorPlan(entry.name, entry.dtype, entry.shape, entry.chunks)


def _config(source: Checkpoint, plan: ParameterPlan) -> dict[str, Any]:
    """The source's config.json, with `quantization` as MLX's loaders read it."""
    keys = {key: value for key, value in source.keys.items() if key != "quantization_config"}
    packings: dict[str, Any] = dict(PACKINGS[Storage.MXFP4])
    for parameter in plan.parameters:
        if parameter.storage in PACKINGS:
            packings[parameter.module] = PACKINGS[parameter.storage]
    changed = {"expert_dtype": source.config.expert_dtype, "quantization": packings}
    return keys | changed
