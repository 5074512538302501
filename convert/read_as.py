"""What a conversion reads its source as, beyond its tensors, for conversion.json to say later.

A folder's name may tell it, and a result has another name, so it is found once, at the beginning.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsv4_mlx.chat.effort import FoundTable, find_effort_table, table_in
from dsv4_mlx.release.identity import release_of


@dataclass(frozen=True)
class ReadAs:
    """The release, None where nothing names one, and the effort table with how it is known."""

    release: str | None
    effort: FoundTable

    @property
    def title(self) -> str:
        """What the model is called."""
        return self.release or "DeepSeek-V4"

    def facts(self) -> dict[str, Any]:
        """For conversion.json, where `releases` and `chat.effort` look for it."""
        return {"release": self.release, "effort_table": dict(vars(self.effort))}


def read_as(folder: Path, noted: Any = None) -> ReadAs:
    """What the folder says and, where it does not, the name of a release; `noted` are the facts of
    an earlier run, from when the folder may have been called otherwise."""
    effort = table_in(noted) if isinstance(noted, dict) else None
    if effort is None:
        return ReadAs(release_of(folder), find_effort_table(folder))
    release = noted.get("release")
    return ReadAs(release if isinstance(release, str) else None, effort)
