"""The diary of one conversion: what it converts, and which files are finished.

One JSON object per line in `conversion.journal`, each line on the disk before the work goes on. A
line cut off by a kill is as if it had not been written. The file is removed once the destination
is marked finished.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.disk import Disk
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.documents import parse_object

JOURNAL_FILE = "conversion.journal"

# What a line of each kind holds at least.
_FIELDS: dict[str, dict[str, type]] = {
    "start": {"plan": str, "source": dict},
    "shard": {"file": str, "bytes": int, "tensors": dict, "errors": dict},
    "checked": {"file": str},
    "deleted": {"file": str},
    "source hash": {"file": str, "sha256": str},
}


@dataclass
class Journal:
    """What the lines say so far; `record` adds one."""

    path: Path
    disk: Disk
    start: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)

    def record(self, kind: str, **content: Any) -> None:
        """Append one line and wait until the disk has it."""
        line = json.dumps({"kind": kind, **content}, sort_keys=True) + "\n"
        self.disk.append(self.path, line.encode())
        self._take(kind, content)

    def _take(self, kind: str, content: Mapping[str, Any]) -> None:
        if kind == "start":
            self.start = dict(content)
        elif kind == "shard":
            self.shards[content["file"]] = dict(content)
            self.checked.discard(content["file"])  # written anew, so to be read back anew
        elif kind == "checked":
            self.checked.add(content["file"])
        elif kind == "deleted":
            self.deleted.add(content["file"])
        elif kind == "source hash":
            self.hashes[content["file"]] = content["sha256"]

    def wrote(self, file: str) -> bool:
        """Whether the shard `file` is there as it was written."""
        known, path = self.shards.get(file), self.path.with_name(file)
        return known is not None and path.is_file() and path.stat().st_size == known["bytes"]

    def remove(self) -> None:
        """After the mark of success."""
        self.path.unlink(missing_ok=True)


def read_journal(folder: Path, disk: Disk) -> Journal:
    """The journal of `folder`, empty when there is none; a torn last line is cut off."""
    journal = Journal(folder / JOURNAL_FILE, disk)
    if not journal.path.exists():
        return journal
    content = journal.path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines():
        entry = _entry(journal.path, line)
        journal._take(entry.pop("kind"), entry)
    if len(whole) < len(content):
        disk.put(journal.path, whole)
    return journal


def _entry(path: Path, line: bytes) -> dict[str, Any]:
    try:
        entry = parse_object(line)
        for name, expected in _FIELDS.get(str(entry["kind"]), {}).items():
            if not isinstance(entry[name], expected):
                raise TypeError(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged; delete the folder {path.parent.name} and convert again."
        ) from error
    return entry
