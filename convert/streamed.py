"""What a converted model does where its experts stay on the disk: expected, not measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from convert.jobs import Job
from convert.plan import ConversionPlan
from convert.report import bytes_per_token, contexts, loaded_bytes, memory_needed
from dsv4_mlx.release.naming import is_draft
from dsv4_mlx.sizing.machines import Mac
from dsv4_mlx.sizing.streamed import (
    STREAMING_MACS,
    Expected,
    StreamedWeights,
    StreamingMac,
    enough_slots,
    expected,
)


@dataclass(frozen=True)
class Offer:
    """One recipe's result on one Mac with its experts on the disk."""

    recipe: str
    mac: Mac
    experts: int
    """Of each layer, all of them."""
    expected: Expected

    def sentence(self) -> str:
        """For people, with the disk's rate that it takes for granted."""
        found = self.expected
        return (
            f"{self.mac.name}, recipe {self.recipe}, streamed: {found.rate_text()}, first answer "
            f"after {found.first_answer_s:.0f} s, with {found.slots} of {self.experts} experts of "
            f"a layer in memory and a disk that reads {found.disk_gb_s:g} GB/s"
        )

    def facts(self) -> dict[str, Any]:
        """For programs."""
        found = self.expected
        return {
            "recipe": self.recipe,
            "mac": self.mac.name,
            "slots": found.slots,
            "experts": self.experts,
            "expected_hits": [round(one, 2) for one in found.hits],
            "expected_tokens_per_s": [round(one, 1) for one in found.tokens_per_s],
            "expected_first_answer_s": round(found.first_answer_s, 1),
            "assumed_disk_gb_s": found.disk_gb_s,
        }


def streamed_weights(plan: ConversionPlan) -> StreamedWeights:
    """The plan's result with its routed experts in files and without draft blocks."""
    config, experts = plan.source.config, _experts(plan)
    drafts = sum(job.loaded_bytes for job in plan.jobs if is_draft(job.module))
    in_memory = sum(job.loaded_bytes for job in experts)
    uses, count = config.num_experts_per_tok, config.n_routed_experts
    read = bytes_per_token(plan) - sum(job.loaded_bytes * uses // count for job in experts)
    return StreamedWeights(
        config,
        resident=loaded_bytes(plan) - in_memory - drafts,
        read=read,
        slot_bytes=in_memory // count,
        file_bytes=sum(job.nbytes for job in experts) // count,
    )


def _experts(plan: ConversionPlan) -> list[Job]:
    """The jobs that write routed experts, draft blocks' not among them."""
    return [job for job in plan.jobs if ".mlp.experts." in job.module and not is_draft(job.module)]


def offers(plan: ConversionPlan, memory_gib: int | None = None) -> Iterator[Offer]:
    """Macs, by default of any memory, that hold the result streamed only, with slots enough; none
    for a part of a model."""
    if plan.layers is not None:
        return
    context = min(contexts(plan).values())
    weights, needed = streamed_weights(plan), memory_needed(plan, context)
    for one in STREAMING_MACS:
        if memory_gib in (None, one.mac.memory_gib) and needed > one.mac.default_bytes:
            found = _expected(weights, one, context)
            if found.slots >= enough_slots(plan.source.config):
                yield Offer(plan.recipe.name, one.mac, plan.source.config.n_routed_experts, found)


def _expected(weights: StreamedWeights, one: StreamingMac, context: int) -> Expected:
    slots = weights.slots(weights.pools_in(one.mac.default_bytes, context))
    return expected(weights, slots, one.mac.bandwidth_gb_s, one.disk_gb_s)


def streamed_lines(plan: ConversionPlan) -> list[str]:
    """A table in Markdown of all such Macs, with what it is and is not; empty where all fit."""
    found = list(offers(plan))
    if not found:
        return []
    rows = [
        f"| {one.mac.name} | {one.expected.slots} of {one.experts} | "
        f"{one.expected.disk_gb_s:g} GB/s | {one.expected.first_answer_s:.0f} s | "
        f"{one.expected.rate_text().removesuffix(' expected')} |"
        for one in found
    ]
    return [
        "Macs without the memory keep routed experts on the disk (streamed). These speeds are",
        "expected from bandwidths, waits and the disk's rate; nobody has measured them. The first",
        "answer reads every expert once.",
        "",
        "| Mac | experts of a layer in memory | disk, assumed | first answer, expected | "
        "decoding, expected |",
        "|---|---|---|---:|---:|",
        *rows,
    ]
