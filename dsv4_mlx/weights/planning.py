"""From the tensors of a checkpoint to the parameters of the model, as a pure plan.

`plan_parameters` matches every stored tensor with the place it fills: each is used once, or listed
as set aside, or an error; shapes and dtypes are those that the config implies. The loader and
`convert` both follow this plan, so what one writes the other reads.
"""

import dataclasses
import gc
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.draft_kinds import block_numbers, require_kind
from dsv4_mlx.release.naming import ENGRAM_TABLE, Target, is_draft, repeats_backbone, translate
from dsv4_mlx.release.tensors import TensorSpec, checkpoint_tensors, dspark_tensors
from dsv4_mlx.weights.affine_packings import affine_packings
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.expected import ExpectedParameter, Slot, one_object
from dsv4_mlx.weights.forms import (
    AffineForm,
    BlockFp8Form,
    DenseForm,
    Mxfp4Form,
    RowFp8Form,
    WeightForm,
    fp8_form,
)
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan, Part
from dsv4_mlx.weights.quantization import WeightStorage
from dsv4_mlx.weights.scales import fits_mxfp8

EMBEDDING = "model.embed_tokens"
CONFIDENCE = "confidence_head.proj.weight"
_WHOLE: Slot = (None, 0)
_ROLES = {"scales": "scales", "block_scales": "scales", "biases": "biases"}
"""What the fields beside a weight are to it."""


def plan_parameters(
    checkpoint: Checkpoint, storages: Mapping[str, WeightStorage] | None = None
) -> ParameterPlan:
    """Match all tensors of the checkpoint; CheckpointError names the first that does not fit.

    DSpark's stages, without which a model runs as well, are the plan's drafts. A part of a model
    has the parameters of its layers. `storages` by parameter, where they are known, saves reading
    scales.
    """
    with _uncollected():
        return _planned(checkpoint, storages)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, nobody looks for garbage: of Flash 200,000 objects are made, and nearly all stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _planned(checkpoint: Checkpoint, storages: Mapping[str, WeightStorage] | None) -> ParameterPlan:
    config, tensors = checkpoint.config, checkpoint.tensors
    draft_files = {name: entry.path for name, entry in tensors.items() if is_draft(name)}
    require_kind(config.draft_kind, draft_files)
    specs = (*checkpoint_tensors(config), *dspark_tensors(config))
    targets: dict[str, Target] = {}
    expected = _expectations(checkpoint, specs, targets)
    for module, packing in affine_packings(checkpoint.keys).items():
        if f"{module}.weight" in expected:
            expected[f"{module}.weight"].form = packing
    if (held := checkpoint.layers) is not None:
        expected = {name: one for name, one in expected.items() if held.holds(one.module)}
    blocks = block_numbers(draft_files)
    set_aside = []
    for name, entry in tensors.items():
        if repeats_backbone(name):
            set_aside.append(entry)
        else:
            _place(expected, entry, _target(name, blocks, targets))
    stages = _present_stages(config, expected)
    known, stage_storage = storages or {}, None if storages is None else WeightStorage.MXFP8
    drafts = tuple(_parameter(one, known.get(name, stage_storage)) for name, one in stages.items())
    parameters = tuple(_parameter(one, known.get(name)) for name, one in expected.items())
    return ParameterPlan(parameters, tuple(set_aside), drafts)


def _present_stages(
    config: DeepseekV4Config, expected: dict[str, ExpectedParameter]
) -> dict[str, ExpectedParameter]:
    """DSpark's stages, taken out of what is expected; none where files have none of them."""
    if config.draft_kind != "dspark":
        return {}
    stages = {name: expected.pop(name) for name in list(expected) if is_draft(name)}
    if not any(one.found for one in stages.values()):
        return {}
    # Some re-uploads lack the confidence head.
    return {n: one for n, one in stages.items() if one.found or not n.endswith(CONFIDENCE)}


def _expectations(
    checkpoint: Checkpoint, specs: Iterable[TensorSpec], targets: dict[str, Target]
) -> dict[str, ExpectedParameter]:
    """What each of our parameters is made of in the official checkpoint, by `module.field`.

    `targets` gets the place of each official name.
    """
    expected: dict[str, ExpectedParameter] = {}
    for spec in specs:
        target = translate(spec.name)
        if target is None:
            raise LookupError(f"naming has no place for {spec.name}")
        targets[spec.name] = target
        is_scale = target.field == "scales"
        name = f"{target.module}.weight" if is_scale else target.name
        one = expected.get(name)
        if one is None:
            form = _released_form(checkpoint, spec, target)
            one = expected[name] = ExpectedParameter(target.module, target.field, form)
        slot = one_object((target.expert, target.half))
        spec = TensorSpec(spec.name, spec.dtype, one_object(spec.shape))
        if is_scale:
            one.scales[slot] = spec
        else:
            one.expect(slot, spec)
    return expected


def _released_form(checkpoint: Checkpoint, spec: TensorSpec, target: Target) -> WeightForm:
    match spec.dtype:
        case "I8":
            return Mxfp4Form()
        case "F8_E4M3" if target.module.endswith(ENGRAM_TABLE):
            return RowFp8Form()
        case "F8_E4M3":
            return BlockFp8Form(checkpoint.fp8_block)
    return DenseForm(spec.dtype, table=target.module == EMBEDDING)


def _target(name: str, blocks: Mapping[str, str], targets: Mapping[str, Target]) -> Target | None:
    """Where a tensor belongs; draft blocks are counted from 0, whatever files call them."""
    if is_draft(name):
        name = re.sub(r"^mtp\.(\d+)\.", lambda match: f"mtp.{blocks[match[1]]}.", name)
    return targets.get(name) or translate(name)


def _place(
    expected: Mapping[str, ExpectedParameter], entry: TensorEntry, target: Target | None
) -> None:
    """Note the tensor as found where it belongs; CheckpointError where that is nowhere."""
    beside = target is not None and target.field in _ROLES
    name = "" if target is None else f"{target.module}.weight" if beside else target.name
    one = expected.get(name)
    if target is None or one is None or (beside and not one.packed):
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} is no tensor of the model that config.json "
            "describes; config.json and weights must come from the same checkpoint."
        )
    slot = one_object((target.expert, target.half))
    kind = target.field if beside else "weight"
    role = _ROLES.get(kind, "weight")
    _require_free(one, role, slot, entry)
    _require_form(one, kind, slot, entry)
    one.found[one_object((role, slot))] = entry
    one.has_bf16 = one.has_bf16 or (role == "weight" and entry.dtype == "BF16")


def _require_free(one: ExpectedParameter, role: str, slot: Slot, entry: TensorEntry) -> None:
    """No other tensor fills the place, a part of it or the whole that it is a part of."""
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


def _require_form(one: ExpectedParameter, kind: str, slot: Slot, entry: TensorEntry) -> None:
    forms = one.accepted(one.logical(slot)).get(kind)
    if forms is None:
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} does not belong to the packing that config.json "
            "states for the matrix; config.json and weights must come from the same checkpoint."
        )
    if (entry.dtype, entry.shape) not in forms:
        dtypes = " or ".join(dict.fromkeys(form.dtype for form in forms))
        shapes = " or ".join(dict.fromkeys(str(list(form.shape)) for form in forms))
        raise CheckpointError(
            f"{entry.name} in {entry.path.name} has dtype {entry.dtype} and shape "
            f"{list(entry.shape)}, expected {dtypes} and {shapes}; use the files that belong to "
            "this config.json."
        )


def _parameter(one: ExpectedParameter, storage: WeightStorage | None) -> Parameter:
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
    return Parameter(
        one.module, one.field, one.logical(_WHOLE), _stored_form(one, parts, storage), parts
    )


def _row_order(slot: Slot) -> tuple[int, int]:
    return (slot[0] or 0, slot[1])


def _require_complete(one: ExpectedParameter, slots: list[Slot]) -> None:
    _require_one_form(one)
    has_scales = one.packed and not one.unpacked
    roles = [("weight", one.weights, True), ("scales", one.scales, has_scales)]
    roles.append(("biases", {}, isinstance(one.form, AffineForm)))
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


def _require_one_form(one: ExpectedParameter) -> None:
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


def _stored_form(
    one: ExpectedParameter, parts: tuple[Part, ...], storage: WeightStorage | None
) -> WeightForm:
    """The form in which files hold the parameter; a known `storage` saves reading its scales."""
    dtype = parts[0].weight.dtype
    if isinstance(one.form, DenseForm):
        return dataclasses.replace(one.form, dtype=dtype)
    if one.unpacked:
        return DenseForm(dtype)
    if not isinstance(one.form, BlockFp8Form) or isinstance(one.form, RowFp8Form):
        return one.form
    best = fp8_form(parts[0].shape[-1], one.form.block)
    if storage is None:
        exact = best.packing is not None and all(map(fits_mxfp8, parts))
    else:
        exact = storage is WeightStorage.MXFP8
    return best if exact else one.form
