"""The most exact recipe whose result runs on a machine of some memory."""

from convert.machines import DEFAULT_SHARE, GIB, SYSTEM_BYTES
from convert.plan import ConversionPlan, plan_conversion
from convert.recipe import SHIPPED
from convert.report import contexts, memory_needed, size_text
from dsv4_mlx.checkpoint import Checkpoint
from dsv4_mlx.errors import UsageError
from dsv4_mlx.parameters import ParameterPlan

MEMORIES = ("64GB", "96GB", "128GB", "192GB", "256GB", "512GB")


def shipped_plans(source: Checkpoint, parameters: ParameterPlan) -> list[ConversionPlan]:
    """A plan for every shipped recipe, from the most exact to the smallest."""
    return [plan_conversion(source, name, parameters=parameters) for name in SHIPPED]


def fitting_plan(plans: list[ConversionPlan], memory: str) -> ConversionPlan:
    """The first that leaves room for a short context; UsageError if none does.

    A recipe that fits as macOS comes is preferred to a more exact one that needs a raised limit.
    """
    size = int(memory.removesuffix("GB")) * GIB
    for limit in (int(size * DEFAULT_SHARE), size - SYSTEM_BYTES):
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
    """How many tokens fit beside the weights in `limit` bytes, at most what the model was made for;
    in whole thousands (1,024) of tokens, zero when not even one does."""
    low, high = 0, plan.source.config.max_position_embeddings // 1024
    while low < high:
        middle = (low + high + 1) // 2
        if memory_needed(plan, middle * 1024) <= limit:
            low = middle
        else:
            high = middle - 1
    return low * 1024


def fit_sentence(plan: ConversionPlan, memory: str) -> str:
    """What was chosen and which context that leaves."""
    size = int(memory.removesuffix("GB")) * GIB
    default = longest_context(plan, int(size * DEFAULT_SHARE))
    raised = longest_context(plan, size - SYSTEM_BYTES)
    return (
        f"{memory}: recipe {plan.recipe.name}, {plan.recipe.description}; a context of {default} "
        f"tokens fits, {raised} with a raised iogpu.wired_limit_mb"
    )
