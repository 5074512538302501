"""The most exact recipe whose result runs on a machine of some memory."""

from convert.drafts import DraftHandling
from convert.plan import ConversionPlan, plan_conversion
from convert.recipe import SHIPPED
from convert.report import contexts, loaded_bytes, memory_needed, size_text
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.sizes import bytes_of
from dsv4_mlx.sizing import machines
from dsv4_mlx.sizing.machines import GIB, default_limit, raised_limit
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.parameters import ParameterPlan

MEMORIES = ("64GB", "96GB", "128GB", "192GB", "256GB", "512GB")


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


def fitting_plan(plans: list[ConversionPlan], memory: str) -> ConversionPlan:
    """The first that leaves room for a short context; UsageError if none does.

    A recipe that fits as macOS comes is preferred to a more exact one that needs a raised limit.
    """
    size = _bytes(memory)
    for limit in (default_limit(size), raised_limit(size)):
        for plan in plans:
            if memory_needed(plan, min(contexts(plan).values())) <= limit:
                return plan
    smallest = min(plans, key=lambda plan: memory_needed(plan, 1))
    raise UsageError(
        f"No recipe fits a Mac with {memory}: the smallest, {smallest.recipe.name}, needs "
        f"{size_text(memory_needed(smallest, min(contexts(smallest).values())))}; take a larger "
        "machine or a smaller model."
    )


def longest_context(plan: ConversionPlan, limit: int) -> int:
    """How many tokens fit beside the weights in `limit` bytes; see `machines.longest_context`."""
    return machines.longest_context(plan.source.config, loaded_bytes(plan), limit)


def fit_sentence(plan: ConversionPlan, memory: str) -> str:
    """What was chosen and which context that leaves."""
    size = _bytes(memory)
    default = longest_context(plan, default_limit(size))
    raised = longest_context(plan, raised_limit(size))
    return (
        f"{memory}: recipe {plan.recipe.name}, {plan.recipe.description}; a context of {default} "
        f"tokens fits, {raised} with a raised iogpu.wired_limit_mb"
    )
