"""`--delete-source`: source shards go while the destination grows, each once nothing needs it.

A source shard is removed when every tensor in it is written, synced, read back and found equal to
what was meant. From then on its header is gone too, so what the plan needs of the source is kept
beside the journal until the conversion is finished.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from convert.disk import Disk
from convert.journal import Journal
from convert.plan import ConversionPlan
from convert.sources import weight_files
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import MOST_BYTES, content_of, parse_object
from dsv4_mlx.files.safetensors_files import TensorEntry, read_header
from dsv4_mlx.release.spellings import config_of, keys_of
from dsv4_mlx.weights.checkpoint import Checkpoint, open_checkpoint
from dsv4_mlx.weights.parameters import ParameterPlan
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.quantization import WeightStorage

SOURCE_FILE = "conversion.source.json"


def remember(plan: ConversionPlan, folder: Path, disk: Disk) -> None:
    """Keep the headers of the source, and how its matrices are stored."""
    source = plan.source
    content = {
        "keys": source.keys,
        "config": keys_of(source.config),
        "tensors": [
            [one.name, one.dtype, one.shape, one.path.name, one.start, one.nbytes]
            for one in source.tensors.values()
        ],
        "storages": {
            one.name: one.storage.value
            for one in (*plan.parameters.parameters, *plan.parameters.drafts)
        },
    }
    disk.put(folder / SOURCE_FILE, json.dumps(content).encode())


def open_source(source: Path, destination: Path) -> tuple[Checkpoint, ParameterPlan]:
    """The source as it was when the conversion to `destination` began, or as it is."""
    path = destination / SOURCE_FILE
    if not path.is_file():
        checkpoint = open_checkpoint(source)
        return checkpoint, plan_parameters(checkpoint)
    try:
        content = parse_object(content_of(path, 4 * MOST_BYTES))  # the largest release has 30 MB
        tensors = {
            name: TensorEntry(name, dtype, tuple(shape), source / file, start, nbytes)
            for name, dtype, shape, file, start, nbytes in content["tensors"]
        }
        config = config_of(content["config"])
        storages = {name: WeightStorage(value) for name, value in content["storages"].items()}
        checkpoint = Checkpoint(source, content["keys"], config, tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged, and without it the source cannot be read on; restore the source's "
            "files and convert to another folder."
        ) from error
    return checkpoint, plan_parameters(checkpoint, storages)


def delete_finished(plan: ConversionPlan, folder: Path, journal: Journal) -> Iterator[Path]:
    """Remove the source shards that nothing needs any more; yields each."""
    finished = [shard for shard in plan.files if journal.wrote(shard.file)]
    for shard in finished:
        if shard.file not in journal.checked:
            require_read_back(folder / shard.file, journal.shards[shard.file], journal.disk)
            journal.record("checked", file=shard.file)
    used = {entry.name for shard in finished for job in shard.jobs for entry in job.sources}
    waiting = {entry.path for entry in plan.source.tensors.values() if entry.name not in used}
    for path in weight_files(plan.source):
        if path not in waiting and path.name in journal.hashes and os.path.lexists(path):
            journal.record("deleted", file=path.name)
            _remove(path)
            yield path


def _remove(path: Path) -> None:
    """The file and, in a hub's cache, what the link stands for."""
    # The link goes last: while it is there, a run after a kill comes here again.
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def require_read_back(path: Path, written: dict[str, Any], disk: Disk) -> None:
    """CheckpointError unless the disk gives back what was written."""
    disk.forget(path)
    tensors = read_header(path)
    for name in sorted(tensors.keys() ^ written["tensors"].keys()):
        raise CheckpointError(
            f"{name} is in only one of {path.name} and what was written there; check the disk. The "
            "source is kept."
        )
    for name, entry in tensors.items():
        digest = xxhash.xxh3_128()
        for chunk in entry.chunks():
            digest.update(chunk)
        if digest.hexdigest() != written["tensors"].get(name):
            raise CheckpointError(
                f"{name} in {path.name} was not read back as it was written; check the disk. The "
                "source is kept."
            )
