"""Writing one shard: jobs one after the other, each tensor at the offset that the plan gave it."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from convert.disk import Disk, partial
from convert.plan import METADATA, Shard
from convert.progress import Progress
from dsv4_mlx.safetensors_files import header_bytes

# Written bytes are handed to the disk in steps of this size, so that it never waits for us and the
# last sync has little left to do.
_SYNC_BYTES = 256 << 20


class _Tensor:
    """Where the next bytes of one tensor go, and the hash of those before."""

    def __init__(self, start: int, nbytes: int):
        self.position, self.end = start, start + nbytes
        self.digest = hashlib.sha256()
        self.hashed: Future[None] | None = None


class ShardWriter:
    """Hashes and syncs beside the copying; `close` waits for both."""

    def __init__(self, disk: Disk, progress: Progress):
        self._disk, self._progress = disk, progress
        self._hasher = ThreadPoolExecutor(1)
        self._syncer = ThreadPoolExecutor(1)

    def close(self) -> None:
        """No thread stays behind."""
        self._hasher.shutdown(cancel_futures=True)
        self._syncer.shutdown(cancel_futures=True)

    def write(self, shard: Shard, path: Path) -> dict[str, Any]:
        """Write `path`, whole or absent -> what the journal keeps: bytes, hashes, weight errors."""
        temporary = partial(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            tensors = self._fill(descriptor, shard)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        self._disk.publish(temporary, path)
        errors = {job.module: job.error.relative for job in shard.jobs if job.error}
        return {"file": shard.file, "bytes": size, "tensors": tensors, "errors": errors}

    def _fill(self, descriptor: int, shard: Shard) -> dict[str, str]:
        header = header_bytes(shard.tensors, METADATA)
        self._disk.write(descriptor, header, 0)
        places, position = {}, len(header)
        for tensor in shard.tensors:
            places[tensor.name] = _Tensor(position, tensor.nbytes)
            position += tensor.nbytes
        unsynced, syncing = 0, None
        try:
            for job in shard.jobs:
                for index, data in job.pieces():
                    self._put(descriptor, places[job.outputs[index].name], data)
                    unsynced += len(data)
                    if unsynced >= _SYNC_BYTES:
                        if syncing:
                            syncing.result()
                        syncing, unsynced = self._syncer.submit(os.fsync, descriptor), 0
        finally:
            if syncing:
                syncing.result()
        return {name: _finished(name, place) for name, place in places.items()}

    def _put(self, descriptor: int, place: _Tensor, data: bytes | memoryview) -> None:
        if place.hashed:
            place.hashed.result()  # one piece may wait to be hashed, not many
        place.hashed = self._hasher.submit(place.digest.update, data)
        self._disk.write(descriptor, data, place.position)
        place.position += len(data)
        self._progress.advance(len(data))


def _finished(name: str, place: _Tensor) -> str:
    if place.position != place.end:
        raise ValueError(f"{name}: {place.end - place.position} bytes were not produced.")
    if place.hashed:
        place.hashed.result()
    return place.digest.hexdigest()
