"""Where figures go: one CSV per benchmark, each row with its date, machine and command."""

import csv
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Cores, processor and system."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []:
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
    return f"{os.cpu_count()} x {model}, {platform.system()} {platform.machine()}"


def device() -> str:
    """The GPU that MLX computes on, or `CPU`."""
    import mlx.core as mx

    if mx.default_device() == mx.cpu:
        return "CPU"
    return str(mx.device_info().get("device_name", "GPU"))


def earlier(name: str) -> list[dict[str, str]]:
    """The rows of results/NAME.csv, oldest first."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def record(name: str, command: str, rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> None:
    """Append `rows` to results/NAME.csv; `fields` are the columns beside the common ones."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    fresh = not path.exists()
    common = {"date": date.today().isoformat(), "machine": machine(), "command": command}
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*common, *fields], lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerows(common | row for row in rows)
