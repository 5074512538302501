"""What was measured of drafts, kept for the next start: one small file per model and machine.

Nothing depends on it: what is not there or cannot be read is measured again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cli.kept.private_files import NoHome, private_folder, state_home, write_whole
from dsv4_mlx.engine.draft_history import DraftHistory
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_json
from dsv4_mlx.files.file_systems import FileSystem

if TYPE_CHECKING:
    from dsv4_mlx.engine.engine import Engine

_MOST_BYTES = 1 << 20


class DraftTimes:
    """Histories of drafters in a folder; `machine` tells apart whatever takes other times."""

    def __init__(self, folder: Path, machine: str) -> None:
        self._folder = folder
        self._name = hashlib.sha256(machine.encode()).hexdigest()[:16]

    def load(self, drafter: str) -> DraftHistory:
        """What `store` was given; an empty history where there is none."""
        try:
            return DraftHistory.of_record(parse_json(content_of(self._file(drafter), _MOST_BYTES)))
        except (OSError, DocumentError):
            return DraftHistory()

    def store(self, drafter: str, history: DraftHistory) -> None:
        """Keep `history`, if that can be done."""
        content = json.dumps(history.as_record()).encode()
        with suppress(OSError, UsageError):
            private_folder(self._folder, FileSystem())
            write_whole(self._file(drafter), content, overwrite=True)

    def _file(self, drafter: str) -> Path:
        return self._folder / f"{self._name}-{drafter}.json"


def kept_draft_times(
    variables: Mapping[str, str], keep: bool
) -> "Callable[[Engine], DraftTimes | None]":
    """A function that gives what is kept of an engine's drafts; None where nothing is."""
    try:
        folder = state_home(variables) / "drafts"
    except NoHome:
        return lambda engine: None

    def of(engine: "Engine") -> DraftTimes | None:
        return DraftTimes(folder, engine.drafting.machine) if keep else None

    return of
