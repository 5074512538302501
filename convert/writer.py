"""Writes what a plan says: one shard at a time through temporary names, the mark of success last.

At any moment a folder without conversion.json is unfinished, and one with it is whole.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from convert.plan import ConversionPlan
from dsv4_mlx import __version__
from dsv4_mlx.checkpoint import CONVERSION_FILE, INDEX_FILE, open_checkpoint
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.fingerprint import fingerprint
from dsv4_mlx.parameters import plan_parameters
from dsv4_mlx.safetensors_files import write_file

FORMAT_VERSION = 1
# The files beside the weights that a reader of the model needs, as glob patterns.
_COMPANIONS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "generation_config.json",
    "chat_template*", "*.jinja", "LICENSE*", "encoding/**/*",
)  # fmt: skip

Report = Callable[[str], None]


def write(plan: ConversionPlan, destination: Path, report: Report) -> None:
    """Run the plan; `report` gets one line per file. UsageError, CheckpointError or OSError."""
    _require_room(plan, destination)
    destination.mkdir(parents=True, exist_ok=True)
    sizes = _write_shards(plan, destination, report)
    sizes |= _copy_companions(plan.source.folder, destination)
    _write_json(destination / INDEX_FILE, _index(plan))
    _write_json(destination / "config.json", plan.config)
    digest = _verify(plan, destination)
    report("verified: every tensor is in its place")
    _write_json(destination / CONVERSION_FILE, _summary(plan, sizes, digest))
    _sync_folder(destination)


def size_text(nbytes: int) -> str:
    """For people: 5.7 MB, 159.6 GB."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def _require_room(plan: ConversionPlan, destination: Path) -> None:
    if destination.exists() and not destination.is_dir():
        raise UsageError(f"{destination} is a file; give a folder that does not exist yet.")
    if destination.is_dir() and any(destination.iterdir()):
        finished = (destination / CONVERSION_FILE).exists()
        kind = "is not empty" if finished else "is not empty and no finished conversion"
        raise UsageError(f"{destination} {kind}; delete it or give another folder.")
    existing = next(folder for folder in (destination, *destination.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < plan.nbytes:
        raise UsageError(
            f"The conversion needs {size_text(plan.nbytes)}, but {existing} has only "
            f"{size_text(free)} free."
        )


def _write_shards(plan: ConversionPlan, destination: Path, report: Report) -> dict[str, int]:
    sizes, done = {}, 0
    shards = [*plan.shards, *([plan.drafts] if plan.drafts.tensors else [])]
    for shard in shards:
        metadata = {"format": "mlx"}
        sizes[shard.file] = write_file(destination / shard.file, shard.tensors, metadata)
        done += shard.nbytes
        report(f"{shard.file}  {size_text(shard.nbytes)}  {done / plan.nbytes:.0%}")
    return sizes


def _copy_companions(source: Path, destination: Path) -> dict[str, int]:
    sizes = {}
    for path in sorted(set(_companions(source))):
        name = path.relative_to(source)
        target = destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        sizes[name.as_posix()] = target.stat().st_size
    return sizes


def _companions(source: Path) -> Iterator[Path]:
    for pattern in _COMPANIONS:
        yield from (path for path in source.glob(pattern) if path.is_file())


def _index(plan: ConversionPlan) -> dict[str, Any]:
    weight_map = {tensor.name: shard.file for shard in plan.shards for tensor in shard.tensors}
    total = sum(shard.nbytes for shard in plan.shards)
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def _verify(plan: ConversionPlan, destination: Path) -> str:
    """Reopen the result as the loader would; returns the fingerprint, equal to the source's."""
    result = open_checkpoint(destination)
    digest = fingerprint(result, plan_parameters(result))
    if digest != fingerprint(plan.source, plan.parameters):
        raise CheckpointError(
            f"{destination} does not hold what {plan.source.folder} holds; check the disk and "
            "convert again."
        )
    return digest


def _summary(plan: ConversionPlan, sizes: dict[str, int], digest: str) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "written_by": f"dsv4-mlx {__version__}",
        "recipe": plan.recipe,
        "fingerprint": digest,
        "file_bytes": sizes,
        "set_aside": [entry.name for entry in plan.parameters.set_aside],
    }


def _write_json(path: Path, content: object) -> None:
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
