"""CARD.md: what a converted folder is, what it needs, and how far it is from the release."""

import re
from collections import defaultdict
from collections.abc import Mapping

from convert.behaviour import Behaviour
from convert.plan import ConversionPlan
from convert.quantized import format_name
from convert.read_as import ReadAs
from convert.report import (
    bytes_per_token,
    contexts,
    drafts_sentence,
    kind_of,
    kinds,
    memory_needed,
    size_text,
)
from convert.streamed import streamed_lines
from convert.texts import Text
from dsv4_mlx.files.paths import printable
from dsv4_mlx.sizing.machines import GIB, MACS

CARD_FILE = "CARD.md"
_BEHAVIOUR = "## Behaviour"


def card(
    plan: ConversionPlan,
    source: ReadAs,
    file_bytes: Mapping[str, int],
    errors: Mapping[str, float],
) -> str:
    """The page; `file_bytes` are those of the shards, `errors` relative ones by module."""
    per_token = bytes_per_token(plan)
    memory = {label: memory_needed(plan, size) for label, size in contexts(plan).items()}
    heads = "".join(f" {label} |" for label in memory)
    lines = [
        f"# {source.title}, recipe {plan.recipe.name}",
        "",
        f"{plan.recipe.description}. Written by dsv4-mlx.",
        "",
        *_part_lines(plan),
        f"- Weights: {sum(file_bytes.values())} bytes in {len(file_bytes)} files.",
        f"- One token reads {size_text(per_token)} of weights.",
        f"- {source.effort.sentence[:1].upper()}{source.effort.sentence[1:]}.",
        *([f"- {said[:1].upper()}{said[1:]}."] if (said := drafts_sentence(plan)) else []),
        *_importance_lines(plan),
        "",
        "| matrices | format | bytes | bits per weight | weight error, mean | worst |",
        "|---|---|---:|---:|---:|---:|",
        *_kind_rows(plan, errors),
        "",
        "The weight error is the root of the mean squared difference from the release as a share",
        "of the weights' own; nothing means that every value is the release's.",
        "",
        "Memory with the cache and an allowance of 2 GiB for the program, by context; tokens/s are",
        "what the memory's bandwidth allows at most, not a measurement.",
        "",
        f"| Mac |{heads} at most |",
        f"|---|{'---|' * len(memory)}---:|",
        f"| needed |{''.join(f' {size / GIB:.1f} GiB |' for size in memory.values())} |",
    ]
    for mac in MACS:
        verdicts = "".join(f" {mac.verdict(size)} |" for size in memory.values())
        ceiling = mac.bandwidth_gb_s * 1e9 / per_token
        lines.append(f"| {mac.name} |{verdicts} {ceiling:.1f} tokens/s |")
    if streamed := streamed_lines(plan):
        lines += ["", "## Streamed", "", *streamed]
    return "\n".join(map(printable, lines)) + "\n"


def with_behaviour(page: str, text: Text, found: Behaviour) -> str:
    """The page with what `verify --level behaviour` found on a text; an older row of it goes."""
    before, _, section = page.partition(f"{_BEHAVIOUR}\n")
    name = f"{printable(text.name).replace('|', '/')} ({text.sha256[:12]})"
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    kept = [row for row in rows[1:] if not row.startswith(f"| {name} |")]
    numbers = [f"{found.tokens}", f"{found.perplexity:.4f}", *_compared(found)]
    lines = [
        _BEHAVIOUR,
        "",
        "What `verify --level behaviour` found: perplexity here and of the release, KL divergence",
        "from it in nats per token, and how often both would say the same next.",
        "",
        "| text | tokens | perplexity | of the release | KL | same choice |",
        "|---|---:|---:|---:|---:|---:|",
        *kept,
        f"| {' | '.join([name, *numbers])} |",
    ]
    return f"{before.rstrip()}\n\n" + "\n".join(lines) + "\n"


def _compared(found: Behaviour) -> list[str]:
    """The numbers that need the release, or nothing in their places."""
    if found.kl is None or found.source_perplexity is None or found.same_choice is None:
        return ["", "", ""]
    return [f"{found.source_perplexity:.4f}", f"{found.kl:.6f}", f"{found.same_choice:.1%}"]


def _part_lines(plan: ConversionPlan) -> list[str]:
    if plan.layers is None:
        return []
    return [
        f"A part of the model: {plan.layers.sentence()}. Everything below is about this part.",
        "",
    ]


def with_errors(page: str, errors: Mapping[str, float], packings: object) -> str:
    """The page of a conversion whose weight errors were not known yet, with them; `packings` as
    config.json has them tell the format of each matrix."""
    by_kind: dict[tuple[str, str], list[float]] = defaultdict(list)
    packings = packings if isinstance(packings, dict) else {}
    for module, error in errors.items():
        packing = packings[module]
        name = format_name(packing["bits"], packing["group_size"])
        by_kind[kind_of(module), name].append(error)
    for (what, form), found in by_kind.items():
        page = re.sub(
            rf"^(\| {re.escape(what)} \| {re.escape(form)} \|.*\|)  \|  \|$",
            lambda row, found=found: f"{row[1]} {_error_cells(found)} |",  # type: ignore[misc]
            page,
            flags=re.MULTILINE,
        )
    return page


def _error_cells(found: list[float]) -> str:
    return f"{sum(found) / len(found):.4f} | {max(found):.4f}" if found else " | "


def _importance_lines(plan: ConversionPlan) -> list[str]:
    facts = plan.importance
    if facts is None:
        return []
    return [
        f"- Errors were weighted by importance, measured on {facts['tokens']} tokens (file",
        f"  {facts['sha256'][:16]}); {facts['experts_by_mean']} of {facts['experts']} experts saw "
        "too few of them and",
        "  have their layer's mean. The plain errors below are not what was made small.",
    ]


def _kind_rows(plan: ConversionPlan, errors: Mapping[str, float]) -> list[str]:
    by_kind: dict[tuple[str, str], list[float]] = defaultdict(list)
    for job in plan.jobs:
        if job.module in errors:
            by_kind[kind_of(job.module), job.format].append(errors[job.module])
    rows = []
    for kind in kinds(plan):
        found = by_kind.get((kind.what, kind.format))
        error = _error_cells(found or [])
        bits = 8 * kind.nbytes / kind.weights
        rows.append(f"| {kind.what} | {kind.format} | {kind.nbytes} | {bits:.2f} | {error} |")
    return rows
