"""Checks a finished conversion: that it is whole, that its bytes are those that were written, and,
beside the source, that every value is the source's."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convert.jobs import Job
from convert.plan import ConversionPlan, plan_conversion
from convert.progress import Progress
from dsv4_mlx.checkpoint import CONVERSION_FILE, Checkpoint, open_checkpoint
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.parameters import plan_parameters
from dsv4_mlx.safetensors_files import TensorEntry, read_header

LEVELS = {
    "structure": "files, sizes and tensors are all there",
    "lossless": "every byte is the one that was written; with --against, the source's",
}


def verify(folder: Path, source: Path | None, level: str, progress: Progress) -> None:
    """CheckpointError naming the first thing that is wrong."""
    if level not in LEVELS:
        raise UsageError(f"level is {level!r}, expected one of: {', '.join(LEVELS)}.")
    summary = read_summary(folder)
    result = open_checkpoint(folder)
    plan_parameters(result)
    tensors = _require_files(folder, summary, result)
    progress.say(f"structure: {len(tensors)} tensors are in their places", "structure")
    if source is not None:
        _require_plan(folder, summary, source)
    if level == "structure":
        return
    progress.begin(sum(entry.nbytes for entry in tensors.values()))
    if source is None:
        _require_hashes(summary["tensor_sha256"], tensors, progress)
        progress.say("lossless: every byte is as it was written", "lossless")
        return
    plan = plan_conversion(open_checkpoint(source), summary["recipe"])
    _require_equal(plan, tensors, progress)
    progress.say(f"lossless: every value is that of {source}", "lossless")


def read_summary(folder: Path) -> dict[str, Any]:
    """The conversion.json of a finished folder."""
    path = folder / CONVERSION_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no finished conversion: it has no {CONVERSION_FILE}; give the folder "
            "that a conversion wrote."
        )
    try:
        summary = dict(json.loads(path.read_text(encoding="utf-8")))
        sizes, hashes = dict(summary["file_bytes"]), dict(summary["tensor_sha256"])
        if not isinstance(summary["recipe"], str):
            raise TypeError("recipe")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged; convert again.") from error
    return summary | {"file_bytes": sizes, "tensor_sha256": hashes}


def _require_files(
    folder: Path, summary: dict[str, Any], result: Checkpoint
) -> dict[str, TensorEntry]:
    """Sizes as recorded, and exactly the recorded tensors; those kept aside are included."""
    tensors = dict(result.tensors)
    for name, size in summary["file_bytes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"{path.stat().st_size} bytes" if path.is_file() else "nothing"
            raise CheckpointError(f"{path} holds {found}, expected {size} bytes; convert again.")
        if path.suffix == ".safetensors":
            tensors |= read_header(path)
    if differing := sorted(tensors.keys() ^ summary["tensor_sha256"].keys()):
        raise CheckpointError(
            f"{differing[0]} is in {folder} or in its {CONVERSION_FILE}, expected in both; convert "
            "again."
        )
    return tensors


def _require_plan(folder: Path, summary: dict[str, Any], source: Path) -> None:
    plan = plan_conversion(open_checkpoint(source), summary["recipe"])
    if summary.get("plan") != plan.digest():
        raise CheckpointError(
            f"{folder} was converted from another source than {source} or by another version; "
            "give the folder it came from, or convert again."
        )


def _require_hashes(
    hashes: dict[str, str], tensors: dict[str, TensorEntry], progress: Progress
) -> None:
    for name, entry in tensors.items():
        digest = hashlib.sha256()
        for chunk in entry.chunks():
            digest.update(chunk)
            progress.advance(len(chunk))
        if digest.hexdigest() != hashes[name]:
            raise CheckpointError(
                f"{name} in {entry.path.name} is not what was written; check the disk and convert "
                "again."
            )


def _require_equal(
    plan: ConversionPlan, tensors: dict[str, TensorEntry], progress: Progress
) -> None:
    for shard in plan.files:
        for job in shard.jobs:
            _require_job(job, tensors, progress)


def _require_job(job: Job, tensors: dict[str, TensorEntry], progress: Progress) -> None:
    readers = [_Reader(tensors[output.name]) for output in job.outputs]
    for index, expected in job.pieces():
        if readers[index].take(len(expected)) != expected:
            entry = readers[index].entry
            raise CheckpointError(
                f"{entry.name} in {entry.path.name} is not what the source holds; convert again."
            )
        progress.advance(len(expected))


class _Reader:
    """The bytes of one tensor, in pieces of any length."""

    def __init__(self, entry: TensorEntry):
        self.entry = entry
        self._chunks: Iterator[bytes] = entry.chunks()
        self._rest = b""

    def take(self, nbytes: int) -> bytes:
        while len(self._rest) < nbytes:
            self._rest += next(self._chunks, b"") or b"\0" * nbytes
        taken, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        return taken
