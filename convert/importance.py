"""The importance file: how much each input channel of each matrix carries, measured on text.

A safetensors file. For a matrix X that recipes may quantize, `X.mean_square` holds the mean squared
input of every channel: float32 [1, in], for `o_a_proj` [groups, in], for stacked experts [E, in],
each expert over the tokens that were routed to it; `X.tokens` int32 counts the rows of each.
The metadata name the weights that it belongs to. See docs/formats.md.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from convert.recipe import quantizable
from convert.sources import sha256_of
from dsv4_mlx import __version__
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import LFS_PROBLEM
from dsv4_mlx.files.file_systems import FileSystem
from dsv4_mlx.files.safetensors_files import TensorEntry, read_header, read_metadata
from dsv4_mlx.files.safetensors_writing import plan_array, write_file
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.fingerprint import fingerprint
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan

FORMAT, VERSION = "dsv4-mlx importance", "1"
METADATA = ("format", "version", "written_by", "fingerprint", "tokens", "texts", "data_sha256")
FIELDS = ("mean_square", "tokens")
MIN_TOKENS = 32
"""An expert that saw fewer rows is weighted by the mean of its layer's experts."""
_EXPERTS = ".mlp.experts.down_proj"
# Channels that a short text never used still count a little.
_FLOOR = 0.1


@dataclass(frozen=True)
class Measured:
    """What was found for one matrix: float64 sums of squares [L, in], rows counted [L]."""

    squares: np.ndarray
    rows: np.ndarray

    def mean_square(self) -> np.ndarray:
        """float32 [L, in]; zero where nothing was seen."""
        mean: np.ndarray = self.squares / np.maximum(self.rows, 1)[:, None]
        return mean.astype(np.float32)


def few_rows(found: Mapping[str, Measured]) -> tuple[int, int]:
    """How many experts saw fewer than `MIN_TOKENS`, and how many there are."""
    counts = [one.rows for module, one in found.items() if module.endswith(_EXPERTS)]
    return int(sum((rows < MIN_TOKENS).sum() for rows in counts)), sum(map(len, counts))


def blocks_of(parameter: Parameter, config: DeepseekV4Config) -> int:
    """How many blocks of rows have inputs of their own: experts, groups of o_a_proj, or one."""
    if len(parameter.shape) == 3:
        return parameter.shape[0]
    return config.o_groups if parameter.module.endswith(".o_a_proj") else 1


def save(
    path: Path,
    found: Mapping[str, Measured],
    source: str,
    texts: Iterable[Mapping[str, Any]],
    files: FileSystem | None = None,
) -> None:
    """Write the file, whole or not at all; `source` is the fingerprint of the weights."""
    arrays = dict(_arrays(found))
    texts = list(texts)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"dsv4-mlx {__version__}",
        "fingerprint": source,
        "tokens": str(sum(text["tokens"] for text in texts)),
        "texts": json.dumps(texts),
        "data_sha256": _data_hash(arrays[name].tobytes() for name in sorted(arrays)),
    }
    dtypes = {"mean_square": "F32", "tokens": "I32"}
    plans = [
        plan_array(name, dtypes[name.rpartition(".")[2]], array) for name, array in arrays.items()
    ]
    write_file(path, plans, metadata, files)


def _arrays(found: Mapping[str, Measured]) -> Iterator[tuple[str, np.ndarray]]:
    for module, one in found.items():
        mean_square = one.mean_square()
        if not np.isfinite(mean_square).all():
            raise CheckpointError(
                f"{module} was given numbers that are not finite; the weights are damaged, so "
                "download them again."
            )
        yield f"{module}.mean_square", mean_square
        yield f"{module}.tokens", one.rows.astype(np.int32)


def _data_hash(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Importance:
    """An opened and checked file; `of` reads what belongs to one matrix."""

    tensors: Mapping[str, TensorEntry]
    facts: Mapping[str, Any]
    """For conversion.json and the card: sha256, tokens, experts, and how many have the mean."""

    def of(self, parameter: Parameter) -> np.ndarray:
        """float32 [L, in], positive: the weight of squared errors for each block of rows."""
        found = self.tensors[f"{parameter.module}.mean_square"].read()
        rows = self.tensors[f"{parameter.module}.tokens"].read()
        return weights(found, rows)


def weights(mean_square: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What the search is given: the mean for experts that saw little, a floor for silent channels.

    mean_square float32 [L, in], rows int32 [L] -> float32 [L, in], of mean 1 in every block.
    """
    seen = rows.astype(np.float64)
    mean = (mean_square * seen[:, None]).sum(0) / max(seen.sum(), 1)
    found = np.where((rows < MIN_TOKENS)[:, None], mean, mean_square)
    level = found.mean(-1, keepdims=True)
    relative = found / np.where(level > 0, level, 1)
    return (relative * (1 - _FLOOR) + _FLOOR).astype(np.float32)


def open_importance(
    path: Path, source: Checkpoint, parameters: ParameterPlan, check_source: bool = True
) -> Importance:
    """CheckpointError for a damaged file, UsageError for another kind or another checkpoint's.

    `check_source` False where the source's files are partly gone: the plan names the file then.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file; make one with `python -m convert calibrate`.")
    metadata = _metadata(path)
    tensors = _tensors(path, metadata)
    if check_source and metadata["fingerprint"] != fingerprint(source, parameters):
        raise UsageError(
            f"{path} was measured on other weights than those in {source.folder}; calibrate this "
            "checkpoint."
        )
    _require_forms(path, tensors, source.config, parameters)
    rows = [entry.read() for name, entry in tensors.items() if name.endswith(f"{_EXPERTS}.tokens")]
    facts = {
        "sha256": sha256_of(path, Event()),
        "tokens": int(metadata["tokens"]),
        "experts": sum(map(len, rows)),
        "experts_by_mean": int(sum((one < MIN_TOKENS).sum() for one in rows)),
    }
    return Importance(tensors, facts)


def _metadata(path: Path) -> dict[str, str]:
    """The file's metadata, complete; UsageError for a file of another kind."""
    wrong = UsageError(
        f"{path} is no importance file of version {VERSION}; make one with `python -m convert "
        "calibrate`."
    )
    try:
        found = read_metadata(path)
        count = int(found["tokens"])
    except CheckpointError as error:
        raise error if LFS_PROBLEM in str(error) else wrong from error
    except (ValueError, KeyError) as error:
        raise wrong from error
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION) or count < 1:
        raise wrong
    if missing := [name for name in METADATA if not isinstance(found.get(name), str)]:
        raise CheckpointError(f"{path} is damaged: it lacks {missing[0]}; calibrate again.")
    return found


def _tensors(path: Path, metadata: Mapping[str, str]) -> dict[str, TensorEntry]:
    try:
        tensors = read_header(path)
        entries = (tensors[name] for name in sorted(tensors))
        found = _data_hash(chunk for entry in entries for chunk in entry.chunks())
    except CheckpointError as error:
        raise CheckpointError(f"{path} is damaged or cut short; calibrate again.") from error
    if found != metadata["data_sha256"]:
        raise CheckpointError(f"{path} does not hold what was measured; calibrate again.")
    return tensors


def _require_forms(
    path: Path,
    tensors: Mapping[str, TensorEntry],
    config: DeepseekV4Config,
    parameters: ParameterPlan,
) -> None:
    """Every quantizable matrix has its two tensors, and there are no others."""
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for parameter in filter(quantizable, parameters.parameters):
        blocks = blocks_of(parameter, config)
        expected[f"{parameter.module}.mean_square"] = "F32", (blocks, parameter.shape[-1])
        expected[f"{parameter.module}.tokens"] = "I32", (blocks,)
    found = {name: (entry.dtype, entry.shape) for name, entry in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path} holds {name} as {found.get(name)}, expected {expected.get(name)}; "
                "calibrate again."
            )


def rows_of(importance: np.ndarray, parameter: Parameter, start: int, count: int) -> np.ndarray:
    """The weights [1 or count, in] of some rows of the whole stack of `parameter`."""
    each = prod(parameter.shape[:-1]) // len(importance)
    blocks = np.arange(start, start + count) // each
    return importance[blocks[:1]] if blocks[0] == blocks[-1] else importance[blocks]
