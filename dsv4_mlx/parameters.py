"""From the tensors of a checkpoint to the parameters of the model, as a pure plan.

`plan_parameters` matches every stored tensor with the place it fills: each is used once, or listed
as set aside, or an error; shapes and dtypes are those that the config implies. The loader and
`convert` both follow this plan, so what one writes the other reads.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from dsv4_mlx.affine_packings import affine_packings
from dsv4_mlx.checkpoint import Checkpoint
from dsv4_mlx.checkpoint_tensors import TensorSpec, checkpoint_tensors
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.naming import Target, is_draft, repeats_backbone, translate
from dsv4_mlx.quantization import (
    GROUP,
    PACKINGS,
    SCALE_BYTES,
    Packing,
    Storage,
    powers_of_two,
    to_e8m0,
)
from dsv4_mlx.safetensors_files import TensorEntry

Shape = tuple[int, ...]
Slot = tuple[int | None, int]
"""Which part of a parameter a tensor fills: expert and half; (None, 0) is the whole."""

_WHOLE: Slot = (None, 0)


@cache
def _one_object(value: tuple[Any, ...]) -> Any:
    """`value`, and the same object for each equal one: tensors are many, shapes and slots few."""
    return value


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive rows of one parameter: [..., out, in] `shape`, stored in one or two tensors."""

    shape: Shape
    weight: TensorEntry
    scales: TensorEntry | None = None
    biases: TensorEntry | None = None

    @property
    def scales_are_per_block(self) -> bool:
        """Whether one scale stands for 128 rows, as in the release; ours repeat it for each."""
        return self.scales is not None and self.scales.shape[-2:-1] != self.shape[-2:-1]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model, or one packed matrix with its scales.

    `module` and `field` name it; `shape` is the logical one, [E, out, in] for stacked experts.
    `parts` in order fill its rows.
    """

    module: str
    field: str
    shape: Shape
    storage: Storage
    parts: tuple[Part, ...]
    affine: Packing | None = None
    """The packing of Storage.AFFINE."""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.field}"

    @property
    def packing(self) -> Packing | None:
        """The arguments of `mlx.nn.quantize`; None where the weight is not packed."""
        return self.affine or PACKINGS.get(self.storage)


@dataclass(frozen=True)
class ParameterPlan:
    """Where everything goes: `set_aside` are tensors that this program knowingly does not run."""

    parameters: tuple[Parameter, ...]
    set_aside: tuple[TensorEntry, ...]


@dataclass
class _Expected:
    """What the config says about one of our parameters, and what was found for it."""

    module: str
    field: str
    weights: dict[Slot, TensorSpec] = dataclasses.field(default_factory=dict)
    scales: dict[Slot, TensorSpec] = dataclasses.field(default_factory=dict)
    found: dict[tuple[str, Slot], TensorEntry] = dataclasses.field(default_factory=dict)
    affine: Packing | None = None

    @property
    def packed(self) -> bool:
        """Whether the release packs it, or a conversion did."""
        return bool(self.scales) or self.affine is not None

    @property
    def unpacked(self) -> bool:
        """Whether it was multiplied out to bfloat16, as some re-uploads of the release are."""
        weights = (entry for (role, _), entry in self.found.items() if role == "weight")
        return self.packed and any(entry.dtype == "BF16" for entry in weights)

    @cached_property
    def fp4(self) -> bool:
        return next(iter(self.weights.values())).dtype == "I8"

    def logical(self, slot: Slot) -> Shape:
        """[out, in] of one part, or the whole parameter's shape."""
        if slot in self.weights:
            return _logical(self.weights[slot])
        shapes = [_logical(spec) for spec in self.weights.values()]
        experts = len({expert for expert, _ in self.weights})
        rows = sum(shape[0] for shape in shapes) // experts
        return (experts, rows, shapes[0][1])


def plan_parameters(
    checkpoint: Checkpoint, storages: Mapping[str, Storage] | None = None
) -> ParameterPlan:
    """Match all tensors of the checkpoint; CheckpointError names the first that does not fit.

    `storages` by parameter, where they are known, saves reading scales.
    """
    expected = _expectations(checkpoint.config)
    for module, packing in affine_packings(checkpoint.keys).items():
        if f"{module}.weight" in expected:
            expected[f"{module}.weight"].affine = packing
    blocks = _draft_blocks(checkpoint.tensors)
    set_aside = []
    for name, entry in checkpoint.tensors.items():
        if _is_set_aside(checkpoint.config, name):
            set_aside.append(entry)
        else:
            _place(expected, entry, _target(name, blocks))
    known = storages or {}
    parameters = tuple(_parameter(one, known.get(name)) for name, one in expected.items())
    return ParameterPlan(parameters, tuple(set_aside))


def _expectations(config: DeepseekV4Config) -> dict[str, _Expected]:
    """What each of our parameters is made of in the official checkpoint, by `module.field`."""
    expected: dict[str, _Expected] = {}
    for spec in checkpoint_tensors(config):
        target = _known(spec.name)
        is_scale = spec.name.endswith(".scale")
        name = f"{target.module}.weight" if is_scale else target.name
        one = expected.setdefault(name, _Expected(target.module, name.rpartition(".")[2]))
        slots = one.scales if is_scale else one.weights
        slot = _one_object((target.expert, target.half))
        slots[slot] = spec._replace(shape=_one_object(spec.shape))
    return expected


def _known(name: str) -> Target:
    target = translate(name)
    if target is None:
        raise LookupError(f"naming has no place for {name}")
    return target


def _is_set_aside(config: DeepseekV4Config, name: str) -> bool:
    """DSpark's draft stages, which this program does not run, and copies of the backbone's ends."""
    return (is_draft(name) and config.draft_kind == "dspark") or repeats_backbone(name)


def _draft_blocks(names: Iterable[str]) -> dict[str, str]:
    """Numbers of the draft blocks as stored -> counted from zero; some files start at one."""
    stored = {match[1] for name in names if (match := re.match(r"mtp\.(\d+)\.", name))}
    return {number: str(position) for position, number in enumerate(sorted(stored, key=int))}


def _target(name: str, blocks: Mapping[str, str]) -> Target | None:
    return translate(re.sub(r"^mtp\.(\d+)\.", lambda match: f"mtp.{blocks[match[1]]}.", name))


def _place(expected: dict[str, _Expected], entry: TensorEntry, target: Target | None) -> None:
    kind = "weight"
    if target is not None and target.field in ("scales", "block_scales", "biases"):
        kind, name = target.field, f"{target.module}.weight"
    else:
        name = target.name if target else ""
    one = expected.get(name)
    if target is None or one is None or (kind != "weight" and not one.packed):
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} is no tensor of the model that config.json "
            "describes; config.json and weights must come from the same checkpoint."
        )
    slot = _one_object((target.expert, target.half))
    role = "scales" if kind == "block_scales" else kind
    taken = one.found.get((role, slot)) or one.found.get((role, _WHOLE))
    if taken is None and slot == _WHOLE:
        taken = next((found for (other, _), found in one.found.items() if other == role), None)
    if taken is not None:
        raise CheckpointError(
            f"{entry.name} and {taken.name} are both given for one place in the model; keep the "
            "files of one checkpoint only."
        )
    if slot != _WHOLE and slot not in one.weights:
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} is one expert more than config.json describes; "
            "config.json and weights must come from the same checkpoint."
        )
    _check_form(one, slot, kind, entry)
    one.found[_one_object((role, slot))] = entry


def _logical(spec: TensorSpec) -> Shape:
    """The shape in weights, two of which share a byte of FP4."""
    if spec.dtype == "I8":
        return _one_object((*spec.shape[:-1], 2 * spec.shape[-1]))
    return spec.shape


def _check_form(one: _Expected, slot: Slot, kind: str, entry: TensorEntry) -> None:
    forms = list(_forms(one, slot, kind))
    if not forms:
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} does not belong to the packing that config.json "
            "states for the matrix; config.json and weights must come from the same checkpoint."
        )
    if (entry.dtype, entry.shape) not in forms:
        dtypes = " or ".join(dict.fromkeys(dtype for dtype, _ in forms))
        shapes = " or ".join(dict.fromkeys(str(list(shape)) for _, shape in forms))
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} has dtype {entry.dtype} and shape "
            f"{list(entry.shape)}, expected {dtypes} and {shapes}; use the files that belong to "
            "this config.json."
        )


def _forms(one: _Expected, slot: Slot, kind: str) -> Iterator[tuple[str, Shape]]:
    """Every (dtype, shape) in which this tensor may be stored, the official one first."""
    shape = one.logical(slot) if one.packed or slot in one.weights else ()
    if not one.packed:
        spec = one.weights[slot]
        yield spec.dtype, spec.shape
        if spec.dtype == "BF16" and len(spec.shape) == 1:
            yield "F32", spec.shape  # norms, which are float32 once they are loaded
        if spec.dtype == "I64":
            yield "I32", spec.shape
        return
    *lead, rows, columns = shape
    if one.affine is not None and kind != "block_scales":
        width = columns * one.affine["bits"] // 32
        groups = columns // one.affine["group_size"]
        if kind == "weight":
            yield "U32", (*lead, rows, width)
            return
        yield from ((dtype, (*lead, rows, groups)) for dtype in ("BF16", "F32"))
        return
    if kind == "weight" and one.affine is None:
        yield from _packed_forms(one, shape)
        yield "BF16", shape
        return
    per_block = (*lead, -(-rows // 128), -(-columns // 128))
    per_row = (*lead, rows, columns // GROUP)
    if kind == "biases" or one.affine is not None:
        return
    if kind == "block_scales":
        yield "F32", (*lead, rows, -(-columns // 128))
    elif kind == "scales" and one.fp4:
        yield "F8_E8M0", per_row
        yield "U8", per_row
    elif kind == "scales":
        yield from ((dtype, per_block) for dtype in ("F8_E8M0", "F32", "U8"))
        yield "U8", per_row


def _packed_forms(one: _Expected, shape: Shape) -> Iterator[tuple[str, Shape]]:
    *lead, rows, columns = shape
    if one.fp4:
        yield "I8", (*lead, rows, columns // 2)
        yield "U8", (*lead, rows, columns // 2)
        yield "U32", (*lead, rows, columns // 8)
    else:
        yield "F8_E4M3", shape
        yield "U32", (*lead, rows, columns // 4)


def _parameter(one: _Expected, storage: Storage | None = None) -> Parameter:
    slots = [_WHOLE] if ("weight", _WHOLE) in one.found else sorted(one.weights, key=_row_order)
    _require_complete(one, slots)
    parts = tuple(
        Part(
            one.logical(slot),
            one.found["weight", slot],
            one.found.get(("scales", slot)),
            one.found.get(("biases", slot)),
        )
        for slot in slots
    )
    shape = one.logical(_WHOLE)
    storage = storage or _storage(one, parts)
    return Parameter(one.module, one.field, shape, storage, parts, one.affine)


def _row_order(slot: Slot) -> tuple[int, int]:
    return (slot[0] or 0, slot[1])


def _require_complete(one: _Expected, slots: list[Slot]) -> None:
    _require_one_form(one)
    has_scales = one.packed and not one.unpacked
    roles = [("weight", one.weights, True), ("scales", one.scales, has_scales)]
    roles.append(("biases", {}, one.affine is not None))
    for role, specs, needed in roles:
        missing = [slot for slot in slots if needed and (role, slot) not in one.found]
        if not missing:
            continue
        name = specs[missing[0]].name if missing[0] in specs else f"{one.module}.{role}"
        there = len(slots) - len(missing)
        counted = f" ({there} of {len(slots)} parts of {one.module} are there)"
        raise CheckpointError(
            f"{name} is missing{counted if len(slots) > 1 else ''}; a file of the checkpoint is "
            "not there or not whole, so download it again."
        )


def _require_one_form(one: _Expected) -> None:
    """What is multiplied out is so in all its parts, and has no scales left to multiply with."""
    if not one.unpacked:
        return
    others = [
        entry for (role, _), entry in one.found.items() if role != "weight" or entry.dtype != "BF16"
    ]
    if others:
        raise CheckpointError(
            f"{others[0].name} in {others[0].path.name} belongs to a packed matrix, but "
            f"{one.module} is also there in BF16; keep the files of one checkpoint only."
        )


def _storage(one: _Expected, parts: tuple[Part, ...]) -> Storage:
    if one.affine is not None:
        return Storage.AFFINE
    if not one.packed or one.unpacked:
        return Storage.DENSE
    if one.fp4:
        return Storage.MXFP4
    if parts[0].shape[-1] % GROUP:
        return Storage.BLOCK_FP8
    return Storage.MXFP8 if all(map(_fits_mxfp8, parts)) else Storage.BLOCK_FP8


def _fits_mxfp8(part: Part) -> bool:
    """Whether the scales are powers of two; the release's float32 ones are read to find out."""
    if part.scales is None or part.scales.dtype != "F32":
        return True
    if not part.scales_are_per_block:
        return False  # our `block_scales`, written because they are no powers of two
    scales = read_float_scales(part.scales)
    low, high = SCALE_BYTES[Storage.MXFP8]
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
