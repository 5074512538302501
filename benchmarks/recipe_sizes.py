"""dsv4_mlx/sizing/recipe_sizes.py: what releases take in memory, by the recipe of a conversion.

    python -m benchmarks.recipe_sizes

A test compares the committed file with `page()`, another its numbers with whole conversion plans.
"""

from dataclasses import replace
from pathlib import Path

from convert.jobs import loaded_bytes
from convert.recipe import SHIPPED, Recipe, read_recipe
from dsv4_mlx.release.config import FLASH, PRO
from dsv4_mlx.sizing import recipe_sizes
from dsv4_mlx.tracing import release_plan
from dsv4_mlx.weights.forms import AffineForm
from dsv4_mlx.weights.parameters import Parameter

PAGE = Path(recipe_sizes.__file__)
HEAD = '''\
"""What the weights of a release take in a GPU's memory, by the recipe of its conversion.

Written by `make pages`, from the stored forms of every parameter.
"""

RECIPES = {
'''
END = '''\
}
"""Bytes; the most exact recipe comes first."""
'''


def page() -> str:
    """The whole file."""
    lines = []
    for release, config in (("V4-Flash", FLASH), ("V4-Pro", PRO)):
        parameters = release_plan(config).parameters
        lines.append(f'    "{release}": {{')
        for recipe in map(read_recipe, SHIPPED):
            size = sum(_loaded(recipe, parameter) for parameter in parameters)
            lines.append(f'        "{recipe.name}": {size:_},')
        lines.append("    },")
    return HEAD + "\n".join([*lines, ""]) + END


def _loaded(recipe: Recipe, parameter: Parameter) -> int:
    packing = recipe.packing(parameter)
    if packing is not None:
        form = AffineForm(packing["bits"], packing["group_size"])
        parameter = replace(parameter, form=form)
    return loaded_bytes(parameter)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
