"""What the doctor tells of the releases: which recipes of theirs fit this machine."""

from pathlib import Path
from typing import Any

from cli.machine.doctor_report import Page
from cli.machine.machine import Machine
from cli.machine.memory import SHORT_CONTEXT, Fit
from dsv4_mlx.release.config import FLASH, PRO, DeepseekV4Config
from dsv4_mlx.sizing.costs import Costs, Kv
from dsv4_mlx.sizing.recipe_sizes import RECIPES


def recipes(page: Page, machine: Machine, backend: str, kv: Kv) -> None:
    """What of the releases fits, by the converter's recipes."""
    facts: dict[str, Any] = {}
    lines = []
    most = machine.raisable(backend) or machine.limit(backend) or 0
    for name, config in (("V4-Flash", FLASH), ("V4-Pro", PRO)):
        facts[name] = {}
        for recipe, weights in RECIPES[name].items():
            if weights > most:
                continue
            fit = Fit(Path(name), config, weights + _wider(config, backend), machine, backend, kv)
            longest, command = fit.longest(), fit.command(SHORT_CONTEXT)
            if longest:
                lines.append(f"{name} {recipe}: a context of {longest:,} tokens")
            elif command:
                lines.append(f"{name} {recipe}: with {command}")
            if longest or command:
                facts[name][recipe] = {"longest_context": longest, "command": command}
    page.add("recipes", facts, *(lines or ["none of V4-Flash and V4-Pro fits here"]))


def _wider(config: DeepseekV4Config, backend: str) -> int:
    """What the known sizes, which are a GPU's, lack on a CPU, at most: it multiplies in float32,
    for which bfloat16 matrices take twice as much."""
    return Costs(config).backbone_bytes()["BF16"] if backend == "cpu" else 0
