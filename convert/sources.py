"""Which source a conversion began with: enough of every file to notice that it was changed."""

import hashlib
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from convert.jobs import Job
from convert.journal import Journal
from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.weights.checkpoint import INDEX_FILE, Checkpoint

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


def files_of(jobs: Iterable[Job]) -> list[Path]:
    """The shards that `jobs` read, in the order in which they are first needed."""
    return list(dict.fromkeys(entry.path for job in jobs for entry in job.sources))


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


class SourceHashes:
    """SHA-256 of the source's shards, as `sha256sum` prints them, computed beside the conversion.

    One thread, and a file only once the conversion reads it too: then the system still has it in
    memory, and the disk is read once.
    """

    def __init__(self, source: Checkpoint, journal: Journal):
        self._journal = journal
        self._left = set(weight_files(source)) - {source.folder / name for name in journal.hashes}
        self._stopped = Event()
        self._thread = ThreadPoolExecutor(1)
        self._running: dict[Path, Future[str]] = {}

    def begin(self, paths: Iterable[Path]) -> None:
        """Those of `paths` that were not begun before, in this order."""
        for path in paths:
            if path in self._left:
                self._left.remove(path)
                self._running[path] = self._thread.submit(sha256_of, path, self._stopped)

    def keep(self, wait: bool) -> None:
        """Record what is known; with `wait`, all that was begun."""
        for path, running in list(self._running.items()):
            if wait or running.done():
                self._journal.record("source hash", file=path.name, sha256=running.result())
                del self._running[path]

    def close(self) -> None:
        """No thread stays behind, and nothing begun is finished."""
        self._stopped.set()
        self._thread.shutdown(cancel_futures=True)


def sha256_of(path: Path, stopped: Event) -> str:
    """64 hexadecimal digits over a whole file, in small pieces; nothing useful once `stopped`."""
    digest, piece = hashlib.sha256(), memoryview(bytearray(_READ_BYTES))
    with open(path, "rb", buffering=0) as file:
        while (size := file.readinto(piece)) and not stopped.is_set():
            digest.update(piece[:size])
    return digest.hexdigest()
