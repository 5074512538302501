"""Parts of a conversion: what each says of the others, and whole folders made of them.

A part holds some layers, in the files that a conversion of all layers would have. `join` makes of
parts the very folder that such a conversion would have written.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert.card import CARD_FILE, card, with_errors
from convert.destination import only_converter, require_empty, require_folder
from convert.disk import Disk, partial
from convert.plan import ConversionPlan
from convert.progress import ProgressDisplay
from convert.read_as import ReadAs
from convert.verify import read_summary, verify
from dsv4_mlx.errors import CheckpointError, UsageError
from dsv4_mlx.files.documents import read_object
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.release.token_map import TokenMap
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, INDEX_FILE, open_checkpoint
from dsv4_mlx.weights.fingerprint import fingerprint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.table_rows import token_map_of

_COPY_BYTES = 8 << 20
_OF_PARTS = ("layers", "whole_plan", "whole_card", "elsewhere")
"""Keys of conversion.json that only a part has."""
_SAME = ("recipe", "rules", "importance", "fingerprint", "backbone", "drafts", "whole_plan")


def index_of(plan: ConversionPlan) -> dict[str, Any]:
    """The index of the whole model, whatever part of it is written."""
    weight_map = {tensor.name: shard.file for shard in plan.shards for tensor in shard.tensors}
    total = sum(shard.nbytes for shard in plan.shards)
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def json_bytes(content: object) -> bytes:
    """A document as conversions write it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def part_facts(plan: ConversionPlan, source: ReadAs, start: Mapping[str, Any]) -> dict[str, Any]:
    """What the conversion.json of a part says beside; nothing of a whole conversion."""
    if plan.layers is None:
        return {}
    whole = plan.whole()
    sizes = {shard.file: shard.file_bytes() for shard in whole.files}
    return {
        "layers": [plan.layers.first, plan.layers.stop],
        "whole_plan": whole.digest(),
        "whole_card": card(whole, source, sizes, {}),
        "elsewhere": start.get("elsewhere", []),
    }


def join(
    folders: Sequence[Path], destination: Path, progress: ProgressDisplay, disk: Disk | None = None
) -> None:
    """Make of parts the folder of the whole model, by links where files may have two names.

    UsageError where they are not all of one model, each layer once; CheckpointError for damage.
    """
    disk = disk or Disk(progress.say)
    require_folder(destination)
    require_empty(destination)
    parts = _in_order(folders)
    for folder, _ in parts:
        verify(folder, None, "structure", progress)
    destination.mkdir(parents=True, exist_ok=True)
    with only_converter(destination, disk.files):
        for folder, summary in parts:
            for name in summary["file_bytes"]:
                if name.endswith(".safetensors"):
                    progress.say(f"{folder / name}", "file", file=name)
                    _place(folder / name, destination / name, disk)
        _finish(parts, destination, disk)
    progress.say(f"done: {destination}", "done", destination=str(destination))


def _in_order(folders: Sequence[Path]) -> list[tuple[Path, dict[str, Any]]]:
    """Parts by their layers; UsageError unless they are one model's, each layer once."""
    found = sorted(map(_layers_of, folders), key=lambda one: (one[0].first, one[0].stop))
    parts = [(folder, read_summary(folder)) for _, folder in found]
    for key in _SAME:
        if any(summary.get(key) != parts[0][1].get(key) for _, summary in parts):
            raise UsageError(
                f"{parts[0][0]} and the other parts differ in {key}; join parts of one model that "
                "were converted alike, by one version of the program."
            )
    ranges = [layers for layers, _ in found]
    borders = [0, *(one.stop for one in ranges)]
    if [one.first for one in ranges] != borders[:-1] or borders[-1] != ranges[0].of:
        raise UsageError(
            f"the parts hold layers {', '.join(map(str, ranges))}, expected each of "
            f"{ranges[0].of} layers once; convert what is missing with --layers."
        )
    return parts


def _layers_of(folder: Path) -> tuple[LayerRange, Path]:
    layers = open_checkpoint(folder).layers
    if layers is None:
        raise UsageError(
            f"{folder} holds a whole model, expected a part that was converted with --layers."
        )
    return layers, folder


def _place(source: Path, target: Path, disk: Disk) -> None:
    """The same file under another name where the disk allows it, else a copy of it."""
    temporary = partial(target)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        _copy(source, temporary, disk)
    disk.publish(temporary, target)


def _copy(source: Path, target: Path, disk: Disk) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        with open(source, "rb") as file:
            position = 0
            while piece := file.read(_COPY_BYTES):
                disk.write(descriptor, piece, position)
                position += len(piece)
        disk.sync(descriptor, target)
    finally:
        os.close(descriptor)


def _finish(parts: list[tuple[Path, dict[str, Any]]], destination: Path, disk: Disk) -> None:
    """The small files, a check of what is there, and the mark of success."""
    folder, first = parts[0]
    for name in (INDEX_FILE, "config.json", *first["file_bytes"]):
        if not name.endswith(".safetensors") and name != CARD_FILE:
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            disk.put(destination / name, (folder / name).read_bytes())
    summary = _merged([one for _, one in parts])
    packings = read_object(destination / "config.json").get("quantization")
    page = with_errors(str(first["whole_card"]), summary["weight_error"], packings)
    disk.put(destination / CARD_FILE, page.encode())
    summary["file_bytes"][CARD_FILE] = len(page.encode())
    _require_same_weights(destination, summary["fingerprint"])
    disk.put(destination / CONVERSION_FILE, json_bytes(summary))
    disk.sync_folder(destination)


def _merged(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The conversion.json of the whole, keys in their order."""
    first = summaries[0]
    merged = {key: value for key, value in first.items() if key not in _OF_PARTS}
    merged["plan"] = first["whole_plan"]
    merged["bytes_per_token"] = sum(one["bytes_per_token"] for one in summaries)
    shards = {name: size for one in summaries for name, size in one["file_bytes"].items()
              if name.endswith(".safetensors")}  # fmt: skip
    merged["file_bytes"] = shards | {
        name: size for name, size in first["file_bytes"].items() if name not in shards
    }
    for key in ("source_sha256", "weight_error", "tensor_xxh3_128"):
        found = {name: value for one in summaries for name, value in one[key].items()}
        merged[key] = dict(sorted(found.items()))
    merged["set_aside"] = [name for one in summaries for name in one["set_aside"]]
    return merged


def _require_same_weights(folder: Path, expected: object) -> None:
    result = open_checkpoint(folder)
    engram = result.config.engram
    token_map: TokenMap | None = None if engram is None else token_map_of(result, engram)
    if fingerprint(result, plan_parameters(result), token_map) != expected:
        raise CheckpointError(
            f"{folder} does not hold what its parts say the whole model holds; check the disks, "
            "delete it and join again."
        )
