"""What the last run's replies found of a model's experts where these lie in files, for the doctor.

One small file per model; nothing depends on it.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from cli.kept.private_files import NoHome, private_folder, state_home, write_whole
from dsv4_mlx.engine.expert_use import ExpertUse
from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_json
from dsv4_mlx.files.file_systems import FileSystem

_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class KeptUse:
    """The replies of one run."""

    use: ExpertUse
    day: str
    """Of the last reply, as 2026-11-30."""

    def as_record(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self.use) | {"day": self.day}

    def sentence(self) -> str:
        """For people."""
        use = self.use
        return (
            f"replies of the last run with experts on the disk ({self.day}, {use.slots} of each "
            f"layer in memory) found {use.hit_rate or 0:.0%} of {use.hits + use.misses:,} in "
            f"memory and waited {use.waited_s:.1f} s for the others"
        )


class ExpertUses:
    """Runs in a folder, by the model's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, model: Path) -> KeptUse | None:
        """The last run of a model; None where there is none that can be read."""
        try:
            kept = parse_json(content_of(self._file(model), _MOST_BYTES))
            found, day = kept["use"], date.fromisoformat(kept["day"]).isoformat()
            names = ("slots", "hits", "misses", "bytes_read")
            slots, hits, misses, bytes_read = (int(found[name]) for name in names)
            waited_s = float(found["waited_s"])
            return KeptUse(ExpertUse(slots, hits, misses, bytes_read, waited_s), day)
        except (OSError, DocumentError, KeyError, TypeError, ValueError):
            return None

    def store(self, model: Path, use: ExpertUse) -> None:
        """Keep what the replies of this run found so far, if that can be done."""
        content = json.dumps({"use": asdict(use), "day": date.today().isoformat()}).encode()
        with suppress(OSError, UsageError):
            private_folder(self._folder, FileSystem())
            write_whole(self._file(model), content, overwrite=True)

    def of_run(self, model: Path) -> "RunUse":
        """What hears of the replies of a run."""
        return RunUse(self, model)

    def _file(self, model: Path) -> Path:
        place = str(model.resolve()).encode("utf-8", "surrogateescape")
        return self._folder / f"{hashlib.sha256(place).hexdigest()[:16]}.json"


class RunUse:
    """Adds up what the replies of a run find."""

    def __init__(self, uses: ExpertUses, model: Path) -> None:
        self._uses, self._model = uses, model
        self._found: ExpertUse | None = None

    def __call__(self, reply: ExpertUse) -> None:
        """A reply found this."""
        self._found = reply if self._found is None else self._found.and_then(reply)
        if self._found.hit_rate is not None:
            self._uses.store(self._model, self._found)


def kept_expert_uses(variables: Mapping[str, str], keep: bool) -> ExpertUses | None:
    """What is kept for a person; None where nothing is."""
    if not keep:
        return None
    try:
        return ExpertUses(state_home(variables) / "experts")
    except NoHome:
        return None
