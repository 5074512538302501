"""Plans and pages with parts that do not end well."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.schedule import Part


@dataclass(frozen=True)
class Broken(Part):
    """A part of misbehaving.py: its name is how it ends."""

    def command(self, options: Sequence[str]) -> list[str]:
        return [sys.executable, "-m", "tests.benchmarks.report.misbehaving", self.name]


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """report.json and report.md of a folder."""
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found, (folder / "report.md").read_text(encoding="utf-8")
