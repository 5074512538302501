"""Which source a conversion began with: enough of every file to notice that it was changed."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from threading import Event
from typing import Any

from dsv4_mlx.checkpoint import INDEX_FILE, Checkpoint
from dsv4_mlx.errors import CheckpointError

_READ_BYTES = 1 << 18


def identity(source: Checkpoint) -> dict[str, Any]:
    """Per file its size and time of change, and what config.json and the index say."""
    found: dict[str, Any] = {}
    for path in weight_files(source):
        if not path.exists():
            continue
        status = path.stat()
        found[path.name] = [status.st_size, status.st_mtime_ns]
    for name in ("config.json", INDEX_FILE):
        path = source.folder / name
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    return found


def weight_files(source: Checkpoint) -> list[Path]:
    """The shards, each once, by name."""
    return sorted({entry.path for entry in source.tensors.values()})


def require_unchanged(
    source: Checkpoint, before: dict[str, Any], deleted: Collection[str] = ()
) -> None:
    """CheckpointError naming the first file that is no longer what it was; we deleted `deleted`."""
    now = identity(source)
    before = {name: known for name, known in before.items() if name in now or name not in deleted}
    changed = sorted(
        name for name in now.keys() | before.keys() if now.get(name) != before.get(name)
    )
    if changed:
        raise CheckpointError(
            f"{changed[0]} in {source.folder} changed since the conversion began; delete the "
            "destination and convert again."
        )


def sha256_of(path: Path, stopped: Event) -> str:
    """64 hexadecimal digits over a whole file, in small pieces; nothing useful once `stopped`."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while (chunk := file.read(_READ_BYTES)) and not stopped.is_set():
            digest.update(chunk)
    return digest.hexdigest()


def unhashed(source: Checkpoint, hashes: Iterable[str]) -> list[Path]:
    """The shards whose hash is not known yet."""
    known = set(hashes)
    return [path for path in weight_files(source) if path.name not in known]
