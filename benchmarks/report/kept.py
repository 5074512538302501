"""report.json and report.md as they grow: written anew with all that is known, and then renamed.

So whoever looks, or whatever ends the program, finds two whole files.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report.children import Outcome

FORMAT = 2

Found = dict[str, Any]
"""The report as plain values: `format`, `command` and `parts`, each an `Outcome` as a dict."""


class Kept:
    """The two files of a report in `folder`."""

    def __init__(self, folder: Path, command: str, page: Callable[[Found], str]):
        folder.mkdir(parents=True, exist_ok=True)
        self.data, self.page = folder / "report.json", folder / "report.md"
        self.texts = folder / "report-texts"
        self._command, self._render = command, page
        self._parts: dict[str, Outcome] = {}

    @property
    def found(self) -> Found:
        """All that is known by now."""
        parts = [asdict(part) for part in self._parts.values()]
        return {"format": FORMAT, "command": self._command, "parts": parts}

    def heard(self, outcome: Outcome) -> None:
        """Keep what a part told."""
        self._parts[outcome.name] = outcome
        _write(self.data, json.dumps(self.found, indent=1) + "\n")

    def show(self) -> None:
        """Write the page."""
        _write(self.page, self._render(self.found))


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
