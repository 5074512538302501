"""Writing one shard: several jobs at a time, each tensor at the offset that the plan gave it."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock
from typing import Any

import xxhash

from convert.disk import Disk, partial
from convert.jobs import Job
from convert.layout import Shard
from convert.progress import ProgressDisplay

# The disk is given work in steps of this size, so that the last sync has little left to do.
_STEP_BYTES = 32 << 20

MAX_JOBS = 16
"""Quantizing to 2 bits takes about 40 MiB for each: so many stay under 1 GB."""


def default_jobs() -> int:
    """One for each core, up to the four that a fast disk can keep busy."""
    return min(4, os.cpu_count() or 1)


class ShardWriter:
    """At most `jobs` parameters are in work at any time.

    Which thread takes which job decides nothing: offsets are the plan's, and a job is one thread's
    from its first byte to its last.
    """

    def __init__(self, disk: Disk, progress: ProgressDisplay, jobs: int):
        self._disk, self._progress, self._jobs = disk, progress, jobs
        self._workers = ThreadPoolExecutor(jobs)

    def close(self) -> None:
        """No thread stays behind."""
        self._workers.shutdown(cancel_futures=True)

    def write(self, shard: Shard, path: Path) -> dict[str, Any]:
        """Write `path`, whole or absent -> what the journal keeps: bytes, hashes, weight errors."""
        temporary = partial(path)
        path.unlink(missing_ok=True)  # one that is not whole, or it would not be written again
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            file = _File(descriptor, shard, self._disk)
            self._fill(file, shard.jobs)
            tensors = file.hashes()
            self._disk.sync(descriptor, temporary)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        self._disk.publish(temporary, path)
        errors = {job.module: job.error.relative for job in shard.jobs if job.error}
        return {"file": shard.file, "bytes": size, "tensors": tensors, "errors": errors}

    def _fill(self, file: "_File", jobs: Iterable[Job]) -> None:
        """All jobs, the largest first so that none is left alone at the end; the first error."""
        waiting = iter(sorted(jobs, key=lambda job: -job.nbytes))
        stopped, lock = Event(), Lock()
        workers = [
            self._workers.submit(self._work, file, waiting, lock, stopped)
            for _ in range(self._jobs)
        ]
        try:
            done, _ = wait(workers, return_when=FIRST_EXCEPTION)
        finally:
            stopped.set()
            wait(workers)
        for worker in sorted(done, key=lambda worker: worker.exception() is None):
            worker.result()

    def _work(self, file: "_File", waiting: Iterator[Job], lock: Lock, stopped: Event) -> None:
        while job := _next(waiting, lock):
            for index, data in job.pieces():
                if stopped.is_set():
                    return
                file.put(job.outputs[index].name, data)
                with lock:
                    self._progress.advance(len(data))


def _next(waiting: Iterator[Job], lock: Lock) -> Job | None:
    with lock:
        return next(waiting, None)


class _Tensor:
    """Where the next bytes of one tensor go, and the hash of those before."""

    def __init__(self, start: int, nbytes: int):
        self.position, self.end = start, start + nbytes
        self.begun = start  # before it the disk was asked to write
        self.digest = xxhash.xxh3_128()


class _File:
    """A shard that is being filled, in any order of its tensors."""

    def __init__(self, descriptor: int, shard: Shard, disk: Disk):
        self._descriptor, self._disk = descriptor, disk
        self._tensors: dict[str, _Tensor] = {}
        header = shard.header
        disk.write(descriptor, header, 0)
        position = len(header)
        for tensor in shard.tensors:
            self._tensors[tensor.name] = _Tensor(position, tensor.nbytes)
            position += tensor.nbytes

    def put(self, name: str, data: bytes | memoryview) -> None:
        """The next bytes of one tensor; one thread at a time for each tensor."""
        tensor = self._tensors[name]
        self._disk.write(self._descriptor, data, tensor.position)
        tensor.digest.update(data)
        tensor.position += len(data)
        if tensor.position - tensor.begun >= _STEP_BYTES:
            self._disk.begin(self._descriptor, tensor.begun, tensor.position - tensor.begun)
            tensor.begun = tensor.position

    def hashes(self) -> dict[str, str]:
        """XXH3 by tensor, in the order of the file; ValueError unless each is complete."""
        for name, tensor in self._tensors.items():
            if tensor.position != tensor.end:
                raise ValueError(f"{name}: {tensor.end - tensor.position} bytes were not produced.")
        return {name: tensor.digest.hexdigest() for name, tensor in self._tensors.items()}
