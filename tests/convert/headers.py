"""Checkpoints that are headers alone: files of the right length, with holes for the weights."""

import json
from pathlib import Path

from dsv4_mlx.files.safetensors_writing import header_bytes
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.spellings import keys_of
from dsv4_mlx.release.tensors import TensorSpec, checkpoint_tensors
from dsv4_mlx.weights.checkpoint import INDEX_FILE


def write_headers(folder: Path, config: DeepseekV4Config, shards: int) -> Path:
    """The release of `config` without a weight: names, dtypes, shapes, sizes and index."""
    folder.mkdir(parents=True)
    specs = list(checkpoint_tensors(config))
    total = sum(spec.nbytes for spec in specs)
    groups: list[list[TensorSpec]] = [[] for _ in range(shards)]
    position = 0
    for spec in specs:
        groups[position * shards // total].append(spec)
        position += spec.nbytes
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        header = header_bytes(group)
        with open(folder / file, "wb") as out:
            out.write(header)
            out.truncate(len(header) + sum(spec.nbytes for spec in group))
        weight_map |= {spec.name: file for spec in group}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_FILE).write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(keys_of(config)))
    return folder
