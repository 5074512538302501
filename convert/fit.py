"""The recipe whose result runs on a machine of some memory: the most exact one that fits, else the
fastest whose experts are read from the disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from convert.drafts import DraftHandling
from convert.plan import ConversionPlan, plan_conversion
from convert.recipe import SHIPPED
from convert.report import contexts, kinds, loaded_bytes, memory_needed, size_text
from convert.streamed import Offer, offers
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.sizes import bytes_of
from dsv4_mlx.sizing import machines
from dsv4_mlx.sizing.machines import GIB, default_limit, raised_limit
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.parameters import ParameterPlan

MEMORIES = ("36GB", "48GB", "64GB", "96GB", "128GB", "192GB", "256GB", "512GB")


def memory_of(text: str) -> str:
    """The memory that `text` means: `64 GB`, `64gb` and `64 GiB` are one; else `text` itself."""
    try:
        size = bytes_of(text)
    except ValueError:
        return text
    same = (one for one in MEMORIES if size in (_bytes(one), bytes_of(one)))
    return next(same, text)


def _bytes(memory: str) -> int:
    """Of a Mac that is sold with it."""
    return int(memory.removesuffix("GB")) * GIB


def shipped_plans(
    source: Checkpoint, parameters: ParameterPlan, drafts: DraftHandling = "keep"
) -> list[ConversionPlan]:
    """A plan for every shipped recipe, from the most exact to the smallest."""
    return [plan_conversion(source, name, parameters=parameters, drafts=drafts) for name in SHIPPED]


@dataclass(frozen=True)
class Fitting:
    """What was chosen for a machine, and what else it can do."""

    memory: str
    plan: ConversionPlan
    is_streamed: bool
    """Whether its experts have to stay on the disk."""
    offers: tuple[Offer, ...]
    """Streamed ones, of the chosen recipe and of others whose experts take more or fewer bytes."""

    def sentence(self) -> str:
        """What was chosen, and which context that leaves or why its experts stay on the disk."""
        recipe = f"{self.memory}: recipe {self.plan.recipe.name}, {self.plan.recipe.description}"
        if self.is_streamed:
            return f"{recipe}; no recipe fits into memory, so experts stay on the disk"
        return f"{recipe}; {_contexts_text(self.plan, self.memory)}"

    def offer_sentences(self) -> Iterator[tuple[str, Offer]]:
        """What to expect of each streamed one, those of the chosen recipe first."""
        name = self.plan.recipe.name
        for one in sorted(self.offers, key=lambda one: one.recipe != name):
            also = "" if one.recipe == name else f"also possible, with --recipe {one.recipe}: "
            yield f"{also}{one.sentence()}", one

    def facts(self) -> dict[str, Any]:
        """For programs, without the offers."""
        name = self.plan.recipe.name
        return {"memory": self.memory, "recipe": name, "streamed": self.is_streamed}


def fitting(plans: list[ConversionPlan], memory: str) -> Fitting:
    """The recipe for `memory`; UsageError with figures where none will do.

    A recipe that fits as macOS comes is preferred to a more exact one that needs a raised limit,
    and either to one whose experts are streamed. Of these the fastest is chosen.
    """
    found = _streamed(plans, memory)
    if resident := _resident_plan(plans, memory):
        return Fitting(memory, resident, False, found)
    if found:
        fastest = max(found, key=lambda one: one.expected.tokens_per_s).recipe
        plan = next(plan for plan in plans if plan.recipe.name == fastest)
        return Fitting(memory, plan, True, found)
    smallest = min(plans, key=lambda plan: memory_needed(plan, 1))
    raise UsageError(
        f"No recipe fits a Mac with {memory}: the smallest, {smallest.recipe.name}, needs "
        f"{size_text(memory_needed(smallest, min(contexts(smallest).values())))}, and too few of "
        "its experts would be in memory if they were read from the disk; take a larger machine or "
        "a smaller model."
    )


def _resident_plan(plans: list[ConversionPlan], memory: str) -> ConversionPlan | None:
    """The first that leaves room for a short context."""
    size = _bytes(memory)
    for limit in (default_limit(size), raised_limit(size)):
        for plan in plans:
            if memory_needed(plan, min(contexts(plan).values())) <= limit:
                return plan
    return None


def _streamed(plans: list[ConversionPlan], memory: str) -> tuple[Offer, ...]:
    """Of recipes whose experts take as many bytes the most exact one."""
    found: list[Offer] = []
    reads: set[int] = set()
    for plan in plans:
        size = sum(kind.nbytes for kind in kinds(plan) if kind.what == "routed experts")
        if size not in reads:
            reads.add(size)
            found += offers(plan, int(memory.removesuffix("GB")))
    return tuple(found)


def longest_context(plan: ConversionPlan, limit: int) -> int:
    """How many tokens fit beside the weights in `limit` bytes; see `machines.longest_context`."""
    return machines.longest_context(plan.source.config, loaded_bytes(plan), limit)


def _contexts_text(plan: ConversionPlan, memory: str) -> str:
    size = _bytes(memory)
    default = longest_context(plan, default_limit(size))
    raised = longest_context(plan, raised_limit(size))
    return f"a context of {default} tokens fits, {raised} with a raised iogpu.wired_limit_mb"
