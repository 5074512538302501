"""What a folder holds, official or converted, from headers alone."""

from collections import Counter, defaultdict
from math import prod
from pathlib import Path
from typing import Any

from convert.jobs import sources_of
from convert.read_as import read_as
from convert.report import engram_facts, engram_line, kind_of, size_text
from convert.verify import read_summary
from dsv4_mlx.chat.effort import FoundTable
from dsv4_mlx.weights.checkpoint import CONVERSION_FILE, open_checkpoint
from dsv4_mlx.weights.planning import plan_parameters
from dsv4_mlx.weights.quantization import WeightStorage


def describe(path: Path) -> dict[str, Any]:
    """Facts for programs. CheckpointError or ConfigError when it is no V4 that we read."""
    checkpoint = open_checkpoint(path)
    plan = plan_parameters(checkpoint)
    source = read_as(checkpoint.folder)
    config, entries = checkpoint.config, checkpoint.tensors.values()
    made: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for one in (*plan.parameters, *plan.drafts):
        dense = one.storage is WeightStorage.DENSE
        form = one.parts[0].weight.dtype.lower() if dense else one.storage.value
        numbers = made[kind_of(one.module), form]
        numbers[0] += prod(one.shape)
        numbers[1] += sum(entry.nbytes for entry in sources_of(one))
    facts = {
        "folder": str(checkpoint.folder),
        "release": source.release,
        "effort_table": dict(vars(source.effort)),
        "layers": config.num_hidden_layers,
        "part": None if checkpoint.layers is None else str(checkpoint.layers),
        "hidden_size": config.hidden_size,
        "experts": config.n_routed_experts,
        "context": config.max_position_embeddings,
        "drafts": config.draft_kind if plan.has_drafts else None,
        **engram_facts(config),
        "files": len({entry.path for entry in entries}),
        "tensors": len(entries),
        "bytes": sum(entry.nbytes for entry in entries),
        "dtypes": dict(Counter(entry.dtype for entry in entries)),
        "set_aside": len(plan.set_aside),
        "kinds": [
            {"what": what, "format": form, "weights": numbers[0], "nbytes": numbers[1]}
            for (what, form), numbers in made.items()
        ],
    }
    if (checkpoint.folder / CONVERSION_FILE).is_file():
        summary = read_summary(checkpoint.folder)
        facts["conversion"] = {
            key: summary.get(key) for key in ("recipe", "written_by", "fingerprint")
        }
    return facts


def page(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    found = facts.get("engram")
    made = facts.get("conversion")
    kind = f"converted, recipe {made['recipe']}, by {made['written_by']}" if made else "official"
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in sorted(facts["dtypes"].items()))
    return [
        f"{facts['folder']}: {facts['release'] or 'DeepSeek-V4'}, {kind}",
        *([f"a part: layers {facts['part']} of {facts['layers']}"] if facts["part"] else []),
        FoundTable(**facts["effort_table"]).sentence,
        f"{facts['layers']} layers, {facts['hidden_size']} wide, {facts['experts']} experts, "
        f"context {facts['context']}, drafts: {facts['drafts']}",
        *([] if found is None else [engram_line(found)]),
        f"{facts['tensors']} tensors in {facts['files']} files, {facts['bytes']} bytes "
        f"({size_text(facts['bytes'])}): {dtypes}",
        *(
            f"  {one['what']:40} {one['format']:10} {size_text(one['nbytes']):>10} "
            f"{8 * one['nbytes'] / one['weights']:6.2f} bits per weight"
            for one in facts["kinds"]
        ),
    ]
