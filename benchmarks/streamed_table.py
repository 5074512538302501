"""The table of docs/small-macs.md: what to expect of V4-Flash with its experts on the disk.

    python -m benchmarks.streamed_table

Nothing is measured: plans of conversions, made from headers alone, give the sizes, and
`dsv4_mlx.sizing.streamed` the speeds. A test compares the committed page with `table()`.
"""

from collections.abc import Iterable
from pathlib import Path

from convert.fit import shipped_plans
from convert.jobs import sources_of
from convert.plan import ConversionPlan
from convert.streamed import Offer, offers
from dsv4_mlx.release.config import FLASH
from dsv4_mlx.sizing.streamed import STREAMING_MACS
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.weights.checkpoint import Checkpoint

PAGE = Path(__file__).parent.parent / "docs" / "small-macs.md"
START = "Written by `make pages` from plans of conversions:\n\n"
END = "\n- **The first answer"
_RECIPES = ("native", "q3", "q2")


def table(plans: Iterable[ConversionPlan]) -> str:
    """Rows by Mac, columns by recipe."""
    by_recipe = {
        plan.recipe.name: {one.mac: one for one in offers(plan)}
        for plan in plans
        if plan.recipe.name in _RECIPES
    }
    heads = "".join(f" {name}: in memory | decoding | first answer |" for name in _RECIPES)
    lines = [f"| Mac, disk assumed |{heads}", f"|---|{'---|' * 3 * len(_RECIPES)}"]
    for one in STREAMING_MACS:
        cells = "".join(_cells(by_recipe[name].get(one.mac)) for name in _RECIPES)
        lines.append(f"| {one.mac.name}, {one.disk_gb_s:g} GB/s |{cells}")
    return "\n".join(lines) + "\n"


def _cells(offer: Offer | None) -> str:
    if offer is None:
        return " all | as any other | |"
    found = offer.expected
    rate = found.rate_text().removesuffix(" tokens/s expected")
    return f" {found.slots} of {offer.experts} | {rate} tokens/s | {found.first_answer_s:.0f} s |"


def page(plans: Iterable[ConversionPlan]) -> str:
    """The whole page with the table of these plans."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    return before + START + table(plans) + END + rest.split(END)[1]


def release_plans() -> list[ConversionPlan]:
    """Plans of V4-Flash by all recipes, from its shapes alone."""
    parameters = release_plan(FLASH)
    entries = [entry for one in parameters.parameters for entry in sources_of(one)]
    tensors = {entry.name: entry for entry in entries}
    return shipped_plans(Checkpoint(Path("release"), {}, FLASH, tensors), parameters)


if __name__ == "__main__":
    PAGE.write_text(page(release_plans()), encoding="utf-8")
    print(f"wrote {PAGE}")
