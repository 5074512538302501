"""What generation_config.json says about sampling, in transformers' words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsv4_mlx.engine.sampling import RANGES, Sampling
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import shown


def sampling_of(stored: Mapping[str, object], path: Path) -> Sampling:
    """The file's content as `Sampling`: where it is silent or says null, temperature and top-p are
    1, as the model card says, and nothing else changes the distribution.

    Raises CheckpointError, with `path`, for a value that is none.
    """
    found: dict[str, Any] = {
        name: _fitting(name, stored[name], path) for name in RANGES if stored.get(name) is not None
    }
    if stored.get("do_sample") is False:
        found["temperature"] = 0.0
    return Sampling(**found)


def _fitting(name: str, value: object, path: Path) -> object:
    if name == "top_k" and value == -1:  # as vLLM spells "all of them"
        return 0
    if RANGES[name].whole and isinstance(value, float) and value.is_integer():
        value = int(value)
    if value not in RANGES[name]:
        expected = RANGES[name].expected(value)
        raise CheckpointError(
            f"{path}: {name} must be {expected} and is {shown(value)}; correct it."
        )
    return value
