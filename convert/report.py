"""A plan as facts and as a page: sizes, formats, disk, memory and the speed that memory allows."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.jobs import Job
from convert.plan import ConversionPlan
from convert.read_as import read_as
from convert.room import free_bytes, room_needed
from dsv4_mlx.chat.effort import FoundTable
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.naming import ENGRAM_TABLE, is_draft, repeats_backbone
from dsv4_mlx.sizing import machines
from dsv4_mlx.sizing.machines import GIB, MACS

CONTEXTS = {"8K": 8_192, "128K": 131_072, "1M": 1_048_576}


@dataclass(frozen=True)
class WeightKind:
    """All matrices of one sort in one format."""

    what: str
    format: str
    weights: int
    nbytes: int


def size_text(nbytes: int) -> str:
    """For people: 5.7 MB, 159.6 GB."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def kind_of(module: str) -> str:
    """The words for what a module is."""
    if is_draft(module):
        return "draft blocks"
    if ".mlp.experts." in module:
        return "routed experts"
    if "shared_experts" in module:
        return "shared experts"
    if module.endswith(ENGRAM_TABLE):
        return "Engram's tables"
    if ".engram." in module:
        return "Engram's products and weights"
    if "compressor" in module:
        return "compressors and indexers"
    if "self_attn" in module and module.endswith("_proj"):
        return "attention"
    return {"lm_head": "head", "model.embed_tokens": "embedding"}.get(
        module, "router, norms, hyper-connections, sinks"
    )


def kinds(plan: ConversionPlan) -> list[WeightKind]:
    """What the result is made of, in the order of the model."""
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    has_beside = plan.draft_choice == "q8" and plan.drafts in plan.files
    beside = plan.drafts.jobs if has_beside else ()
    for job in (*plan.jobs, *beside):
        entry = found[kind_of(job.module), job.format]
        entry[0] += job.weights
        entry[1] += job.nbytes
    return [WeightKind(what, form, *numbers) for (what, form), numbers in found.items()]


def loaded_bytes(plan: ConversionPlan) -> int:
    """The weights once they are in memory; of Engram's tables what they take there."""
    engram = plan.source.config.engram
    own = engram is not None and any(job.module.endswith(ENGRAM_TABLE) for job in plan.jobs)
    held = engram.held_bytes if engram is not None and own else 0
    return held + sum(
        job.loaded_bytes for job in plan.jobs if not job.module.endswith(ENGRAM_TABLE)
    )


def bytes_per_token(plan: ConversionPlan) -> int:
    """Weight bytes in memory that decoding one token reads, drafts not counted."""
    return sum(_read(job, plan.source.config) for job in plan.jobs)


def _read(job: Job, config: DeepseekV4Config) -> int:
    if is_draft(job.module) or job.module == "model.embed_tokens" or job.format == "int32":
        return 0  # of the tables one row, too little to count
    if job.module.endswith(ENGRAM_TABLE):
        return 0  # a few rows, from memory or a disk
    if ".mlp.experts." in job.module:
        return job.loaded_bytes * config.num_experts_per_tok // config.n_routed_experts
    return job.loaded_bytes


def memory_needed(plan: ConversionPlan, context: int) -> int:
    """Weights, cache and an allowance for the program, at `context` tokens."""
    return machines.memory_needed(
        plan.source.config, loaded_bytes(plan), context, layers=plan.layers
    )


def engram_facts(config: DeepseekV4Config) -> dict[str, Any]:
    """What Engram's tables are and where they lie while the model is used; nothing without."""
    engram = config.engram
    if engram is None:
        return {}
    facts = {
        "layers": list(engram.layer_ids),
        "rows": list(engram.num_embeddings),
        "table_bytes": engram.table_bytes,
        "held_bytes": engram.held_bytes,
        "in_files": engram.stays_in_files,
    }
    return {"engram": facts}


def engram_line(facts: dict[str, Any]) -> str:
    """The same for people, of the facts `engram`."""
    where = "held in memory"
    if facts["in_files"]:
        where = f"read from files row by row, {size_text(facts['held_bytes'])} of rows kept"
    return (
        f"Engram before layers {', '.join(map(str, facts['layers']))}: {sum(facts['rows'])} rows, "
        f"{size_text(facts['table_bytes'])}, {where}"
    )


def room_sentence(needed: int, folder: Path, free: int) -> str:
    """Why nothing is begun."""
    return (
        f"The conversion needs {size_text(needed)}, but {folder} has only {size_text(free)} free; "
        "make room or give a folder on another disk."
    )


def facts(
    plan: ConversionPlan, destination: Path, *, delete_source: bool = False
) -> dict[str, Any]:
    """Everything that the page says, for programs; `delete_source` makes room on the way."""
    entries = plan.source.tensors.values()
    per_token = bytes_per_token(plan)
    memory = {label: memory_needed(plan, context) for label, context in contexts(plan).items()}
    return {
        "source": str(plan.source.folder),
        "destination": str(destination),
        **read_as(plan.source.folder).facts(),
        **engram_facts(plan.source.config),
        "recipe": plan.recipe.name,
        **({} if plan.layers is None else {"layers": [plan.layers.first, plan.layers.stop]}),
        "importance": plan.importance,
        "source_tensors": len(entries),
        "source_bytes": sum(entry.nbytes for entry in entries),
        "parameters": len(plan.parameters.parameters),
        "shards": {shard.file: shard.file_bytes() for shard in plan.files},
        "bytes": plan.nbytes,
        "kinds": [vars(kind) for kind in kinds(plan)],
        "set_aside": {name: _why(name) for name in plan.set_aside},
        "drafts": plan.draft_choice,
        "left_out": [entry.name for entry in plan.left_out],
        "disk_needed": room_needed(plan, destination, delete_source=delete_source),
        "disk_free": free_bytes(destination),
        "bytes_per_token": per_token,
        "memory_needed": memory,
        "macs": {
            mac.name: {
                "tokens_per_s_ceiling": round(mac.bandwidth_gb_s * 1e9 / per_token, 1),
                **{label: mac.verdict(needed) for label, needed in memory.items()},
            }
            for mac in MACS
        },
    }


def contexts(plan: ConversionPlan) -> dict[str, int]:
    """The contexts that the model was made for, by label."""
    longest = plan.source.config.max_position_embeddings
    fitting = {label: size for label, size in CONTEXTS.items() if size <= longest}
    return fitting or {f"{longest}": longest}


def drafts_sentence(plan: ConversionPlan) -> str:
    """What becomes of draft blocks; "" where the source has none."""
    kind = plan.source.config.draft_kind if plan.parameters.has_drafts else None
    if kind is None:
        return ""
    what = "an MTP block" if kind == "mtp" else "DSpark's stages"
    if plan.draft_choice == "drop":
        return f"drafts: {what} left out, {len(plan.left_out)} tensors"
    if plan.draft_choice == "q8":
        return f"drafts: {what}, at most 8 bits a weight"
    return f"drafts: {what}, " + ("by the recipe" if kind == "mtp" else "as released")


def _why(name: str) -> str:
    if repeats_backbone(name):
        return "a copy of the backbone's embedding or head"
    return "a draft stage (DSpark), without which the model runs too"


def page(plan: ConversionPlan, destination: Path, *, delete_source: bool = False) -> list[str]:
    """The plan for people."""
    data = facts(plan, destination, delete_source=delete_source)
    return [
        f"{data['source']} -> {destination}, recipe {plan.recipe.name}: {plan.recipe.description}",
        f"read as {data['release'] or 'DeepSeek-V4'}, {_effort(data)}",
        *([] if plan.layers is None else [f"a part: {plan.layers.sentence()}"]),
        *_importance_line(plan),
        f"source: {data['source_tensors']} tensors, {data['source_bytes']} bytes; "
        f"each is used once, {len(data['set_aside'])} of them kept aside in {plan.drafts.file}",
        *filter(None, [drafts_sentence(plan)]),
        *(f"  kept aside: {why} ({count} tensors)" for why, count in _reasons(data).items()),
        f"result: {len(data['shards'])} shards, {data['bytes']} bytes ({size_text(data['bytes'])})",
        *(
            f"  {kind.what:40} {kind.format:22} {size_text(kind.nbytes):>10} "
            f"{8 * kind.nbytes / kind.weights:6.2f} bits per weight"
            for kind in kinds(plan)
        ),
        *([engram_line(data["engram"])] if "engram" in data else []),
        _disk_line(data, plan, delete_source),
        *_memory_lines(data),
    ]


def _disk_line(data: dict[str, Any], plan: ConversionPlan, delete_source: bool) -> str:
    needed, free = data["disk_needed"], data["disk_free"]
    whole = sum(shard.file_bytes() for shard in plan.files)
    freed = f", {size_text(whole - needed)} come from the source meanwhile" if delete_source else ""
    there = "the file system does not tell how much is" if free is None else size_text(free)
    return f"disk: {size_text(needed)} needed{freed}, {there} free"


def _effort(data: dict[str, Any]) -> str:
    return FoundTable(**data["effort_table"]).sentence


def _importance_line(plan: ConversionPlan) -> list[str]:
    if plan.importance is None:
        return []
    return [f"errors weighted by importance measured on {plan.importance['tokens']} tokens"]


def _reasons(data: dict[str, Any]) -> dict[str, int]:
    counted: dict[str, int] = defaultdict(int)
    for why in data["set_aside"].values():
        counted[why] += 1
    return counted


def _memory_lines(data: dict[str, Any]) -> list[str]:
    memory = data["memory_needed"]
    columns = "".join(f"{label:>14}" for label in memory)
    needed = "".join(f"{size / GIB:>10.1f} GiB" for size in memory.values())
    lines = [
        f"one token reads {size_text(data['bytes_per_token'])} of weights",
        f"{'memory with a context of':28}{columns}   at most",
        f"{'  weights, cache, 2 GiB':28}{needed}",
    ]
    for name, mac in data["macs"].items():
        verdicts = "".join(f"{mac[label]:>14}" for label in memory)
        lines.append(f"  {name:26}{verdicts}   {mac['tokens_per_s_ceiling']:.1f} tokens/s")
    return lines
