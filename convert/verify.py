"""Checks a finished conversion: that it is whole, that its bytes are those that were written, and,
beside the source, that every value is the source's."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import xxhash

from convert.behaviour import Behaviour, compare
from convert.card import CARD_FILE, with_behaviour
from convert.disk import Disk
from convert.drafts import DRAFTS
from convert.jobs import Job
from convert.plan import ConversionPlan, plan_conversion
from convert.progress import ProgressDisplay
from convert.quantized import measured
from convert.recipe import recipe_of
from convert.second_reader import require_agreement
from convert.texts import Text
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import read_object
from dsv4_mlx.files.safetensors_files import TensorEntry, read_header
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, Checkpoint, held_layers, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.table_rows import token_map_of

LEVELS = {
    "structure": "files, sizes and tensors are all there",
    "lossless": "every byte is the one that was written; with --against, every value the source's "
    "where the recipe does not quantize",
    "numeric": "quantized values too are as near to the source's as was recorded",
    "behaviour": "the model runs: perplexity of --text, and with --against the distance to the "
    "source's predictions",
}


def verify(
    folder: Path,
    source: Path | None,
    level: str,
    progress: ProgressDisplay,
    text: Path | None = None,
) -> None:
    """CheckpointError naming the first thing that is wrong; `text` is for the level behaviour."""
    if level not in LEVELS:
        raise UsageError(f"level is {level!r}, expected one of: {', '.join(LEVELS)}.")
    summary = read_summary(folder)
    if (text is None) == (level == "behaviour"):
        raise UsageError("The level behaviour needs a text, and no other takes one: --text FILE.")
    if level == "numeric" and source is None:
        raise UsageError("The level numeric compares with the source; name it with --against.")
    result = open_checkpoint(folder)
    plan_parameters(result)
    tensors = _require_files(folder, summary, result)
    _require_token_map(result, source)
    progress.say(f"structure: {len(tensors)} tensors are in their places", "structure")
    plan = None if source is None else _plan(folder, summary, source)
    if text is not None:
        read, found = compare(folder, source, text)
        progress.say(found.sentence(), "behaviour", **vars(found))
        _remember(folder, read, found, progress)
    if level in ("structure", "behaviour"):
        return
    progress.begin(sum(entry.nbytes for entry in tensors.values()))
    exact = {output.name for job in _exact_jobs(plan) for output in job.outputs}
    hashes = {name: sha for name, sha in summary["tensor_xxh3_128"].items() if name not in exact}
    _require_hashes(hashes, tensors, progress)
    for job in _exact_jobs(plan):
        _require_job(job, tensors, progress)
    compared = f"{len(exact)} tensors hold the values of {source}, " if plan else ""
    progress.say(f"lossless: {compared}{len(hashes)} are as they were written", "lossless")
    if level == "numeric" and plan is not None:
        _require_near(plan, tensors, summary, progress)


def _remember(folder: Path, text: Text, found: Behaviour, progress: ProgressDisplay) -> None:
    """Into the card, where the folder can be written to."""
    path = folder / CARD_FILE
    try:
        page = path.read_text(encoding="utf-8") if path.exists() else ""
        Disk(progress.say).put(path, with_behaviour(page, text, found).encode())
    except OSError as error:
        progress.say(f"{path} stays as it was: {error.strerror}", "note")


def read_summary(folder: Path) -> dict[str, Any]:
    """The conversion.json of a finished folder."""
    path = folder / CONVERSION_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no finished conversion: it has no {CONVERSION_FILE}; give the folder "
            "that a conversion wrote."
        )
    summary = read_object(path, cure="convert again")
    try:
        sizes, hashes = dict(summary["file_bytes"]), dict(summary["tensor_xxh3_128"])
        if not isinstance(summary["recipe"], str):
            raise TypeError("recipe")
        summary["weight_error"] = dict(summary.get("weight_error", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged; convert again.") from error
    return summary | {"file_bytes": sizes, "tensor_xxh3_128": hashes}


def _require_files(
    folder: Path, summary: dict[str, Any], result: Checkpoint
) -> dict[str, TensorEntry]:
    """Sizes as recorded, and exactly the recorded tensors; those kept aside are included."""
    tensors = dict(result.tensors)
    for name, size in summary["file_bytes"].items():
        if name == CARD_FILE:  # grows with what is found later
            continue
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"{path.stat().st_size} bytes" if path.is_file() else "nothing"
            raise CheckpointError(f"{path} holds {found}, expected {size} bytes; convert again.")
        if path.suffix == ".safetensors":
            entries = read_header(path)
            require_agreement(path, entries)
            tensors |= entries
    if differing := sorted(tensors.keys() ^ summary["tensor_xxh3_128"].keys()):
        raise CheckpointError(
            f"{differing[0]} is in {folder} or in its {CONVERSION_FILE}, expected in both; convert "
            "again."
        )
    return tensors


def _require_token_map(result: Checkpoint, source: Path | None) -> None:
    """Engram's fits its tables, and is the source's."""
    engram = result.config.engram
    if engram is None:
        return
    found = token_map_of(result, engram)
    if source is not None and (found != token_map_of(open_checkpoint(source), engram)).any():
        raise CheckpointError(
            f"{result.folder} compresses token ids otherwise than {source}; convert again."
        )


def _plan(folder: Path, summary: dict[str, Any], source: Path) -> ConversionPlan:
    rules = {"matrices": summary.get("rules", [])}
    recipe = recipe_of(summary["recipe"], rules)
    drafts = summary.get("drafts", "keep")
    if drafts not in DRAFTS:
        raise CheckpointError(f"{folder / CONVERSION_FILE} is damaged; convert again.")
    checkpoint = open_checkpoint(source)
    layers = held_layers(folder, checkpoint.config.num_hidden_layers)
    plan = plan_conversion(checkpoint, recipe, drafts=drafts, layers=layers)
    plan = replace(plan, importance=summary.get("importance"))
    begun = plan.as_begun(summary.get("plan"))
    if begun is None:
        raise CheckpointError(
            f"{folder} was converted from another source than {source} or by another version; "
            "give the folder it came from, or convert again."
        )
    return begun


def _exact_jobs(plan: ConversionPlan | None) -> list[Job]:
    """Jobs whose bytes follow from the source's alone."""
    shards = plan.files if plan else ()
    return [job for shard in shards for job in shard.jobs if job.error is None]


def _require_near(
    plan: ConversionPlan,
    tensors: dict[str, TensorEntry],
    summary: dict[str, Any],
    progress: ProgressDisplay,
) -> None:
    worst = 0.0
    for parameter in (*plan.parameters.parameters, *plan.parameters.drafts):
        packing = plan.config["quantization"].get(parameter.module)
        if not packing or packing["mode"] != "affine" or not plan.holds(parameter.module):
            continue
        found = measured(parameter, packing, tensors).relative
        recorded = summary["weight_error"].get(parameter.module, 0.0)
        if not found <= recorded * 1.001 + 1e-9:
            raise CheckpointError(
                f"{parameter.module} differs from the source by {found:.4f} of its size, expected "
                f"{recorded:.4f}; convert again."
            )
        worst = max(worst, found)
    progress.say(f"numeric: quantized weights are within {worst:.4f} of their size", "numeric")


def _require_hashes(
    hashes: dict[str, str], tensors: dict[str, TensorEntry], progress: ProgressDisplay
) -> None:
    for name in hashes:
        entry, digest = tensors[name], xxhash.xxh3_128()
        for chunk in entry.chunks():
            digest.update(chunk)
            progress.advance(len(chunk))
        if digest.hexdigest() != hashes[name]:
            raise CheckpointError(
                f"{name} in {entry.path.name} is not what was written; check the disk and convert "
                "again."
            )


def _require_job(job: Job, tensors: dict[str, TensorEntry], progress: ProgressDisplay) -> None:
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
