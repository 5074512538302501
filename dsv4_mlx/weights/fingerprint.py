"""A short name for the weights of a model, to tell whether a saved cache belongs to it."""

import hashlib
import json

import numpy as np
import numpy.typing as npt

from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan

_SAMPLE_BYTES = 256


def fingerprint(
    checkpoint: Checkpoint,
    plan: ParameterPlan,
    token_map: npt.NDArray[np.int32] | None = None,
) -> str:
    """64 hexadecimal digits over config, parameter names, shapes, formats and samples of bytes.

    Samples are the ends of each matrix, whose bytes a native conversion does not change, so an
    official folder and its converted form have the same fingerprint. Not a checksum: a damaged
    byte between the samples goes unnoticed. `token_map` is Engram's, which decides its rows.
    """
    config = checkpoint.config.replace(other_stop_ids=())  # they decide no value
    digest = hashlib.sha256(json.dumps(keys_of(config), sort_keys=True).encode())
    for parameter in sorted(plan.parameters, key=lambda parameter: parameter.name):
        described = (parameter.name, parameter.shape, parameter.storage.value)
        digest.update(repr(described).encode())
        if parameter.field != "tid2eid":  # stored as int64 or int32
            digest.update(_sample(parameter))
    if token_map is not None:
        digest.update(token_map.astype("<i4").tobytes())
    return digest.hexdigest()


def _sample(parameter: Parameter) -> bytes:
    first, last = parameter.parts[0].weight, parameter.parts[-1].weight
    size = min(_SAMPLE_BYTES, first.nbytes, last.nbytes)
    return _read(first, 0, size) + _read(last, last.nbytes - size, size)


def _read(entry: TensorEntry, offset: int, size: int) -> bytes:
    with open(entry.path, "rb") as file:
        file.seek(entry.start + offset)
        return file.read(size)
