"""Short names for the weights of a model, to tell what belongs to it."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.deciding import deciding_keys
from dsv4_mlx.release.identity import CONVERSION_FILE, conversion_facts
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan

SAMPLE_BYTES = 256
"""Of each end of a matrix."""


_ALWAYS_NAMED = ("expert_dtype", "initializer_range")
"""Keys that fingerprints held at their defaults too; what has come since is left out there."""


def timeline_fingerprint(
    checkpoint: Checkpoint,
    plan: ParameterPlan,
    token_map: npt.NDArray[np.int32] | None = None,
    elsewhere: "Iterable[Sampled] | None" = None,
) -> str:
    """64 hexadecimal digits over what decides the state of a timeline, for its cache files.

    As `fingerprint` without draft blocks and without configuration keys at their defaults: a
    timeline goes on with, without and with other drafts.
    """
    digest = hashlib.sha256(json.dumps(deciding_keys(checkpoint.config), sort_keys=True).encode())
    others = noted_elsewhere(checkpoint) if elsewhere is None else elsewhere
    backbone = (one for one in (*map(sampled, plan.parameters), *others)
                if not one.name.startswith("mtp."))  # fmt: skip
    return _over(digest, backbone, token_map)


def fingerprint(
    checkpoint: Checkpoint,
    plan: ParameterPlan,
    token_map: npt.NDArray[np.int32] | None = None,
    elsewhere: "Iterable[Sampled] | None" = None,
) -> str:
    """64 hexadecimal digits over config, parameter names, shapes, formats and samples of bytes.

    Samples are the ends of each matrix, whose bytes a native conversion does not change, so an
    official folder and its converted form have the same fingerprint. Not a checksum: a damaged
    byte between the samples goes unnoticed. `token_map` is Engram's, which decides its rows.
    Conversions and importance files are named by it, and cache files of versions 2 to 4 were. A
    part of a model has the whole model's: `elsewhere` are samples of the other layers, by default
    those that its conversion noted.
    """
    others = noted_elsewhere(checkpoint) if elsewhere is None else elsewhere
    return fingerprint_with(checkpoint.config, plan, (), token_map, others)


class Sampled(NamedTuple):
    """What a fingerprint takes of one parameter; `sample` in hexadecimal digits."""

    name: str
    shape: Sequence[int]
    storage: str
    sample: str


def noted_elsewhere(checkpoint: Checkpoint) -> list[Sampled]:
    """Samples of the layers that a part of a model lacks; CheckpointError for damaged ones."""
    if checkpoint.layers is None:
        return []
    noted = conversion_facts(checkpoint.folder).get("elsewhere")
    try:
        return samples_of(noted)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.folder / CONVERSION_FILE} is damaged: its samples of other layers cannot "
            "be read; convert the layers again."
        ) from error


def samples_of(noted: Any) -> list[Sampled]:
    """What was written of `Sampled` as JSON; TypeError or ValueError for anything else."""
    found = [Sampled(*one) for one in noted]
    for one in found:
        bytes.fromhex(one.sample)
    return found


def fingerprint_with(
    config: DeepseekV4Config,
    plan: ParameterPlan,
    drafts: Iterable[Sequence[Any]],
    token_map: npt.NDArray[np.int32] | None = None,
    elsewhere: Iterable[Sampled] = (),
) -> str:
    """The fingerprint of a model of `config` that has other MTP blocks than the plan's.

    `drafts` are fields of `Sampled` of theirs; without any the plan's own count. `elsewhere` are
    samples of parameters that the plan lacks.
    """
    others = [Sampled(*one) for one in drafts]
    had = (*map(sampled, plan.parameters), *elsewhere)
    own = (one for one in had if not others or not one.name.startswith("mtp."))
    digest = hashlib.sha256(json.dumps(_named_keys(config), sort_keys=True).encode())
    return _over(digest, (*own, *others), token_map)


def earlier_fingerprints(
    checkpoint: Checkpoint, plan: ParameterPlan, token_map: npt.NDArray[np.int32] | None = None
) -> tuple[str, ...]:
    """What cache files of versions 2 to 4 may call the model: by the MTP blocks of its folder, by
    none, and by those that a conversion left out or made otherwise."""
    config = checkpoint.config
    backbone = tuple(one for one in plan.parameters if not one.module.startswith("mtp."))
    if config.draft_kind == "mtp":
        config = config.replace(num_nextn_predict_layers=0)
    others = [one for one in noted_elsewhere(checkpoint) if not one.name.startswith("mtp.")]
    none = fingerprint_with(config, ParameterPlan(backbone, ()), (), token_map, others)
    had = conversion_facts(checkpoint.folder).get("earlier_fingerprints")
    had = [one for one in had if isinstance(one, str)] if isinstance(had, list) else []
    return (fingerprint(checkpoint, plan, token_map), none, *had)


class NamedTimelines(Protocol):
    """What keeps timelines: a model, or the part of it that one of two ranks has."""

    fingerprint: str
    weights_fingerprint: str
    earlier_fingerprints: Sequence[str]

    @property
    def token_map(self) -> npt.NDArray[np.int32] | None: ...


def name_timelines(model: NamedTimelines, checkpoint: Checkpoint, plan: ParameterPlan) -> None:
    """Say of a loaded model whose timelines are its own, those kept by earlier versions too."""
    model.fingerprint = timeline_fingerprint(checkpoint, plan, model.token_map)
    model.weights_fingerprint = fingerprint(checkpoint, plan, model.token_map)
    model.earlier_fingerprints = earlier_fingerprints(checkpoint, plan, model.token_map)


def sampled(parameter: Parameter) -> Sampled:
    """The ends of a parameter; nothing of tid2eid, which is stored as int64 or int32."""
    sample = b"" if parameter.field == "tid2eid" else _sample(parameter)
    return Sampled(parameter.name, parameter.shape, parameter.storage.value, sample.hex())


def _named_keys(config: DeepseekV4Config) -> dict[str, object]:
    """The keys of config.json that a fingerprint covers."""
    keys = keys_of(config.replace(other_stop_ids=()))  # they decide no value
    for field in fields(config):
        at_default = keys.get(field.name, MISSING) == field.default
        if at_default and field.name not in _ALWAYS_NAMED:
            del keys[field.name]
    return keys


def _over(
    digest: "hashlib._Hash",
    parameters: Iterable[Sampled],
    token_map: npt.NDArray[np.int32] | None,
) -> str:
    for name, shape, storage, sample in sorted(parameters, key=lambda one: one.name):
        digest.update(repr((name, tuple(shape), storage)).encode())
        digest.update(bytes.fromhex(sample))
    if token_map is not None:
        digest.update(token_map.astype("<i4").tobytes())
    return digest.hexdigest()


def _sample(parameter: Parameter) -> bytes:
    first, last = parameter.parts[0].weight, parameter.parts[-1].weight
    size = min(SAMPLE_BYTES, first.nbytes, last.nbytes)
    return _read(first, 0, size) + _read(last, last.nbytes - size, size)


def _read(entry: TensorEntry, offset: int, size: int) -> bytes:
    with open(entry.path, "rb") as file:
        file.seek(entry.start + offset)
        return file.read(size)
