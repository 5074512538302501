"""Which matrix gets which format: rules in TOML, the first that matches a name counts.

    description = "what it does"
    [[matrices]]
    match = ["*.mlp.experts.*"]     # our names, `*` for any text
    bits = 3                        # 2, 3, 4, 5, 6 or 8
    group_size = 128                # weights that share a scale and an offset: 32, 64 or 128

What no rule names stays as released. Router, compressors with their indexers, norms,
hyper-connections, sinks and the embedding always do: a coarser router or compressor chooses other
experts and other entries.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import read_toml
from dsv4_mlx.files.paths import printable, user_path
from dsv4_mlx.weights.parameters import Parameter
from dsv4_mlx.weights.quantization import AFFINE_BITS, AFFINE_GROUPS, PackingKeys, WeightStorage

_MOST_BYTES = 1 << 20
NATIVE = "native"
_SHIPPED = Path(__file__).parent / "recipes"
SHIPPED = (NATIVE, "q8", "q6", "q4", "q3", "q2")
"""From the most exact to the smallest."""

_QUANTIZABLE = re.compile(
    r"lm_head"
    r"|mtp\.\d+\.[eh]_proj"
    r"|.*\.self_attn\.(?:q_a|q_b|kv|o_a|o_b)_proj"
    r"|.*\.mlp\.(?:shared_experts|experts)\.\w+"
)


@dataclass(frozen=True)
class Rule:
    """Matrices whose names match get `bits` per weight and a scale and offset per group."""

    patterns: tuple[str, ...]
    bits: int
    group_size: int

    def matches(self, module: str) -> bool:
        """Whether the rule is about `module`."""
        return any(fnmatchcase(module, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Recipe:
    """A name, its meaning and its rules."""

    name: str
    description: str
    rules: tuple[Rule, ...] = ()

    def as_rules(self) -> list[dict[str, Any]]:
        """The rules as TOML and JSON have them."""
        return [
            {"match": list(rule.patterns), "bits": rule.bits, "group_size": rule.group_size}
            for rule in self.rules
        ]

    def packing(self, parameter: Parameter) -> PackingKeys | None:
        """The affine packing of a matrix; None where it stays as released."""
        if not quantizable(parameter):
            return None
        rule = next((rule for rule in self.rules if rule.matches(parameter.module)), None)
        if rule is None:
            return None
        width = parameter.shape[-1]
        fitting = [group for group in AFFINE_GROUPS if width % group == 0]
        if not fitting:
            return None
        group = max((size for size in fitting if size <= rule.group_size), default=fitting[0])
        return {"group_size": group, "bits": rule.bits, "mode": "affine"}


def quantizable(parameter: Parameter) -> bool:
    """Whether a recipe may touch it."""
    kept = parameter.field != "weight" or parameter.storage is WeightStorage.AFFINE
    return not kept and bool(_QUANTIZABLE.fullmatch(parameter.module))


def read_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or the one in a TOML file; UsageError says what is wrong."""
    if name == NATIVE:
        return Recipe(NATIVE, "every value as released: FP4 experts as mxfp4, FP8 as mxfp8")
    path = _SHIPPED / f"{name}.toml" if name in SHIPPED else user_path(name)
    if path.suffix.lower() != ".toml":
        raise UsageError(
            f"recipe is {name!r}, expected one of: {', '.join(SHIPPED)}, or a file *.toml."
        )
    content = read_toml(path, error=UsageError, most_bytes=_MOST_BYTES)
    return recipe_of(printable(path.stem), content)


def recipe_of(name: str, content: dict[str, Any]) -> Recipe:
    """The recipe that a table says; UsageError names what is wrong in it."""
    unknown = sorted(content.keys() - {"description", "matrices"})
    matrices, description = content.get("matrices"), content.get("description", "")
    if unknown or not isinstance(matrices, list) or not isinstance(description, str):
        raise UsageError(
            f"The recipe {name} holds {unknown or 'no list of matrices'}, expected `description` "
            "and [[matrices]]."
        )
    return Recipe(name, description, tuple(_rule(name, one) for one in matrices))


def _rule(name: str, content: Any) -> Rule:
    keys = {"match", "bits", "group_size"}
    if not isinstance(content, dict) or content.keys() != keys:
        raise UsageError(
            f"The recipe {name} has a rule that is not made of match, bits and group_size; see "
            "the shipped recipes."
        )
    match = content["match"]
    patterns = [match] if isinstance(match, str) else match
    if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
        raise UsageError(f"The recipe {name} matches {match!r}, expected a pattern or several.")
    for key, allowed in (("bits", AFFINE_BITS), ("group_size", AFFINE_GROUPS)):
        if type(content[key]) is not int or content[key] not in allowed:
            raise UsageError(
                f"The recipe {name} has {key} = {content[key]!r}, expected one of {allowed}."
            )
    return Rule(tuple(patterns), content["bits"], content["group_size"])


def require_used(recipe: Recipe, parameters: tuple[Parameter, ...]) -> None:
    """UsageError for a rule that matches nothing it may change, for that is a slip."""
    names = [one.module for one in parameters if quantizable(one)]
    for rule in recipe.rules:
        if not any(rule.matches(name) for name in names):
            raise UsageError(
                f"The recipe {recipe.name} names {', '.join(rule.patterns)}, but no matrix that "
                "may be quantized has such a name; routers, compressors, norms and "
                "hyper-connections stay as released."
            )
