"""What this machine is: chip, memory, system, MLX's settings, power."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import mlx.core as mx

from benchmarks.record import device, machine
from benchmarks.report.setting import Setting
from benchmarks.report.teller import Teller
from metal_kernels import registry
from metal_kernels.backend import MissingBackend

Command = Callable[[list[str]], str]
"""The output of a command of the system, nothing where there is none."""

_PREFIXES = ("MLX_", "DSV4_")
_PACKAGES = ("dsv4-mlx", "mlx", "mlx-lm", "mlx-vlm", "numpy")


def output_of(command: list[str]) -> str:
    """What a command of the system says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run(teller: Teller, setting: Setting) -> None:
    """One row `machine`, or one `missing` where the backend asked for is not there."""
    try:
        plan = registry.plan(setting.backend)
    except MissingBackend as error:
        teller.row("missing", message=str(error))
        return
    mx.set_default_device(mx.cpu if plan.backend == "cpu" else mx.gpu)
    teller.row(
        "machine",
        backend=plan.backend,
        kernels=list(registry.NAMES),
        references=[name for name, how in plan.chosen.items() if how == "reference"],
        date=date.today().isoformat(),
        machine=machine(),
        device=device(),
        device_info={name: str(value) for name, value in mx.device_info().items()},
        system=platform.platform(),
        versions={"python": platform.python_version(), **_versions()},
        commit=output_of(["git", "rev-parse", "--short", "HEAD"]),
        variables=_variables(),
        **(mac() if sys.platform == "darwin" else {}),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _variables() -> dict[str, str]:
    """What MLX and this program are told by the environment, but for folders."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(_PREFIXES) and os.sep not in value
    }


def mac(command: Command = output_of) -> dict[str, Any]:
    """What macOS says of itself: build, chip, memory, wired limit, power."""
    power = command(["pmset", "-g"])
    return {
        "macos": command(["sw_vers", "-productVersion"]),
        "macos_build": command(["sw_vers", "-buildVersion"]),
        "chip": command(["sysctl", "-n", "machdep.cpu.brand_string"]),
        "memory_bytes": _number(command(["sysctl", "-n", "hw.memsize"])),
        "wired_limit_mb": _number(command(["sysctl", "-n", "iogpu.wired_limit_mb"])),
        "power_mode": power_mode(power),
        "power_source": command(["pmset", "-g", "batt"]).partition("\n")[0],
    }


def power_mode(settings: str) -> str:
    """Of what `pmset -g` prints: low, high, automatic, or unknown."""
    values = dict(line.split()[:2] for line in settings.splitlines() if len(line.split()) >= 2)
    if values.get("lowpowermode") == "1" or values.get("powermode") == "1":
        return "low"
    if values.get("highpowermode") == "1" or values.get("powermode") == "2":
        return "high"
    return "automatic" if {"powermode", "lowpowermode"} & set(values) else "unknown"


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
