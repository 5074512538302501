"""How many rows of a call keep their bits, as a load found it, kept for the loads to come.

One small file per machine, MLX, kernel texts and shapes of a model; what is not there is found
anew.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cli.kept.private_files import NoHome, private_folder, state_home, write_whole
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_json
from dsv4_mlx.files.file_systems import FileSystem

_MOST_BYTES = 1 << 16


class RowFindings:
    """Findings in a folder, by the name of what each depends on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, machine: str) -> Any:
        """What `store` was given for `machine`; None where there is nothing that can be read."""
        try:
            kept = parse_json(content_of(self._file(machine), _MOST_BYTES))
        except (OSError, DocumentError):
            return None
        is_own = isinstance(kept, dict) and kept.get("machine") == machine
        return kept.get("found") if is_own else None

    def store(self, machine: str, record: dict[str, Any]) -> None:
        """Keep `record`, if that can be done."""
        content = json.dumps({"machine": machine, "found": record}).encode()
        with suppress(OSError, UsageError):
            private_folder(self._folder, FileSystem())
            write_whole(self._file(machine), content, overwrite=True)

    def _file(self, machine: str) -> Path:
        return self._folder / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json"


def kept_row_findings(variables: Mapping[str, str], keep: bool) -> RowFindings | None:
    """What is kept for a person; None where nothing is."""
    if not keep:
        return None
    try:
        return RowFindings(state_home(variables) / "rows")
    except NoHome:
        return None
