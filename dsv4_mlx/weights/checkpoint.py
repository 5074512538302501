"""A checkpoint folder, opened: its config and the place of every tensor, without loading any.

Accepts the official folder as downloaded and folders written by `convert`. Damage ends in a
CheckpointError, a model of another kind in a ConfigError.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import read_object, shown
from dsv4_mlx.files.fields import Fields
from dsv4_mlx.files.hub_cache import model_folder
from dsv4_mlx.files.paths import user_path
from dsv4_mlx.files.safetensors_files import TensorEntry, read_header
from dsv4_mlx.files.system_files import without_system_files
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.config_file import read_config
from dsv4_mlx.release.identity import CONVERSION_FILE as CONVERSION_FILE
from dsv4_mlx.release.identity import conversion_facts
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.release.tensors import FP8_BLOCK
from dsv4_mlx.weights.draft_marks import require_own_drafts

INDEX_FILE = "model.safetensors.index.json"
DRAFT_FILE = "draft.safetensors"
"""Draft blocks that a model runs without, as `convert` keeps them: beside the index, not in it."""
GENERATION_FILE = "generation_config.json"

_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")

# Weights of other programs, by their names: never opened.
_OTHER_FORMATS = {
    "*.gguf": "a GGUF file",
    **dict.fromkeys(("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt"), "a pickle"),
}


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds: `keys` is its config.json as written, `tensors` go by stored name.

    `layers` are those of a part of a model, as `convert --layers` writes it; None is all of it.
    """

    folder: Path
    keys: Mapping[str, object]
    config: DeepseekV4Config
    tensors: Mapping[str, TensorEntry]
    layers: LayerRange | None = None

    @property
    def fp8_block(self) -> int:
        """Rows, and inputs, that share one scale of FP8; config.json may say only the release's."""
        return FP8_BLOCK


@dataclass(frozen=True)
class ModelFolder:
    """A checkpoint's folder whose small files are read, and the large ones when they are asked for.

    `keys` is its config.json as written, `described` what that says, and `generation` its
    generation_config.json, None where there is none.
    """

    folder: Path
    keys: Mapping[str, object]
    described: DeepseekV4Config
    generation: Mapping[str, object] | None

    @property
    def generation_path(self) -> Path:
        """Where `generation` stands or would stand."""
        return self.folder / GENERATION_FILE

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The folder with all headers, which are read once; CheckpointError says what is wrong."""
        return self.opened(held_layers(self.folder, self.described.num_hidden_layers))

    def opened(self, layers: LayerRange | None) -> Checkpoint:
        """The same as a part that holds `layers`, whatever else its index names; None is all."""
        config = self._with_stops()
        tensors = _read_tensors(self.folder, layers)
        require_own_drafts(self.folder, tensors)
        named = tensors if layers is None else _read_weight_map(self.folder)
        config = _as_stored(config, self.keys, tensors, named)
        return Checkpoint(self.folder, self.keys, config, tensors, layers)

    def _with_stops(self) -> DeepseekV4Config:
        """The config with the further tokens that generation_config.json ends a reply at."""
        config, path = self.described, self.generation_path
        if self.generation is None:
            return config
        found = Fields(self.generation, path).ids("eos_token_id")
        others = [*config.other_stop_ids, *found]
        kept = tuple(dict.fromkeys(one for one in others if one != config.eos_token_id))
        if any(one >= config.vocab_size for one in kept):
            raise CheckpointError(
                f"{path}: eos_token_id is {shown(list(found))}, expected ids below the "
                f"vocabulary's {config.vocab_size}; correct it."
            )
        return config.replace(other_stop_ids=kept) if kept != config.other_stop_ids else config


def open_folder(path: str | Path) -> ModelFolder:
    """Read config.json and generation_config.json; CheckpointError or ConfigError says what is
    wrong. Of a repository in a hub's cache it is the newest snapshot."""
    folder = model_folder(user_path(path))
    keys, described = read_config(folder)
    generation = folder / GENERATION_FILE
    return ModelFolder(
        folder, keys, described, read_object(generation) if generation.is_file() else None
    )


def open_checkpoint(path: str | Path, layers: LayerRange | None = None) -> Checkpoint:
    """`open_folder` with all headers read as well, and with its errors.

    `layers` open a part that does not say yet which it holds.
    """
    folder = model_folder(user_path(path))
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; expected one with config.json and *.safetensors files."
        )
    opened = open_folder(folder)
    return opened.checkpoint if layers is None else opened.opened(layers)


def held_layers(folder: Path, layers: int) -> LayerRange | None:
    """The layers of a finished part of a model of `layers`; None where the folder has all."""
    found = conversion_facts(folder).get("layers")
    if found is None:
        return None
    try:
        first, stop = found
        return LayerRange(int(first), int(stop), layers)
    except (TypeError, ValueError, UsageError) as error:
        raise CheckpointError(
            f"{folder / CONVERSION_FILE}: layers are {shown(found)}, expected two numbers up to "
            f"{layers}; convert again."
        ) from error


def _read_tensors(folder: Path, layers: LayerRange | None) -> dict[str, TensorEntry]:
    tensors, beside = _read_model_tensors(folder, layers), folder / DRAFT_FILE
    if layers is not None and layers.stop < layers.of:
        return tensors  # drafts go with the last layer
    if not beside.is_file() or any(entry.path == beside for entry in tensors.values()):
        return tensors
    drafts = read_header(beside)
    if twice := sorted(drafts.keys() & tensors.keys()):
        raise _stored_twice(twice[0], tensors[twice[0]].path, beside)
    return tensors | drafts


def _read_model_tensors(folder: Path, layers: LayerRange | None) -> dict[str, TensorEntry]:
    if layers is not None or (folder / INDEX_FILE).is_file():
        weight_map = _read_weight_map(folder)
        if layers is not None:
            weight_map = {name: file for name, file in weight_map.items() if layers.holds(name)}
        return _read_indexed(folder, weight_map)
    files = _weight_files(folder, "model*.safetensors") or _weight_files(folder, "*.safetensors")
    if not files:
        _require_no_other_format(folder)
        raise CheckpointError(
            f"{folder} is not a model folder: it has config.json but no *.safetensors files; "
            "download the weights too."
        )
    _require_files(folder, _numbered_siblings([file.name for file in files]))
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in tensors:
                raise _stored_twice(name, tensors[name].path, file)
            tensors[name] = entry
    return tensors


def _stored_twice(name: str, one: Path, other: Path) -> CheckpointError:
    return CheckpointError(
        f"{name} is stored twice, in {one.name} and {other.name}; keep the files of one checkpoint "
        "only."
    )


def _weight_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(without_system_files(folder.glob(pattern)))


def _require_no_other_format(folder: Path) -> None:
    for pattern, form in _OTHER_FORMATS.items():
        if other := next(iter(_weight_files(folder, pattern)), None):
            raise CheckpointError(
                f"{other.name} is {form}, expected the release's *.safetensors files; download "
                "those."
            )


def _read_weight_map(folder: Path) -> dict[str, str]:
    weight_map = read_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{INDEX_FILE} has no weight_map; download it again.")
    for name, written in weight_map.items():
        file = written
        while isinstance(file, str) and file.startswith("./"):
            file = file[2:].lstrip("/")
        inside = isinstance(file, str) and Path(file).name == file and "\\" not in file
        if not inside or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{INDEX_FILE} places {name} in {shown(written)}, expected a *.safetensors file of "
                "the same folder; download the index again."
            )
        weight_map[name] = sys.intern(file)  # a few names for many thousands of tensors
    return weight_map


def _read_indexed(folder: Path, weight_map: dict[str, str]) -> dict[str, TensorEntry]:
    files = sorted(set(weight_map.values()))
    _require_files(folder, files)
    headers = {file: read_header(folder / file) for file in files}
    for file, header in headers.items():
        for name in header:
            if weight_map.get(name) != file:
                raise CheckpointError(
                    f"{file} holds {name}, which {INDEX_FILE} places in "
                    f"{weight_map.get(name, 'no file')}; index and files belong to different "
                    "checkpoints."
                )
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise CheckpointError(
                f"{file} lacks {name}, which {INDEX_FILE} places there; download the file again."
            )
    return {(entry := headers[file][name]).name: entry for name, file in weight_map.items()}


def _numbered_siblings(files: list[str]) -> list[str]:
    """All names that `x-00002-of-00005.safetensors` promises."""
    promised = set()
    for file in files:
        numbered = _NUMBERED.fullmatch(file)
        if numbered:
            stem, _, count = numbered.groups()
            promised |= {
                f"{stem}-{number:05d}-of-{count}.safetensors" for number in range(1, int(count) + 1)
            }
    return sorted(promised)


def _require_files(folder: Path, files: list[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing from {folder}: {shown}; "
            "download them again."
        )


def _as_stored(
    config: DeepseekV4Config,
    keys: Mapping[str, object],
    tensors: Mapping[str, TensorEntry],
    named: Iterable[str],
) -> DeepseekV4Config:
    """The config corrected by what the files hold where config.json leaves it open; `named` are all
    tensors of the model, in whatever part."""
    if keys.get("expert_dtype") is None and config.expert_dtype == "fp4":
        expert = tensors.get("layers.0.ffn.experts.0.w1.weight")
        if expert is not None and expert.dtype == "F8_E4M3":
            config = config.replace(expert_dtype="fp8")
    # Re-saved checkpoints, transformers' among them, may leave the prediction blocks out.
    if config.num_mtp_layers and not any(name.startswith("mtp.") for name in named):
        config = config.replace(num_nextn_predict_layers=0)
    return config
