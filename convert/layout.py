"""Which job goes into which file of a conversion.

Every layer begins a new shard, so that a part of the layers is whole files, and the same ones
whichever part they are converted with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from convert.jobs import Job, Output
from dsv4_mlx.files.safetensors_writing import aligned, header_bytes
from dsv4_mlx.release.layer_ranges import layer_of
from dsv4_mlx.release.naming import ENGRAM_TABLE, is_draft
from dsv4_mlx.weights.draft_marks import DRAFT_MARK

MAX_SHARD_BYTES = 5 << 30
PAGE_BYTES = 1 << 14
"""What Apple's machines read at a time, and a multiple of what others do."""
METADATA = {"format": "mlx"}
_UNKNOWN_MARK = "0" * 64


@dataclass(frozen=True)
class Shard:
    """One file to be written."""

    file: str
    jobs: tuple[Job, ...]
    mark: str | None = _UNKNOWN_MARK
    """The backbone that the drafts in it belong to; None where they shall not say."""

    @property
    def tensors(self) -> list[Output]:
        """In the order of the file."""
        return aligned(output for job in self.jobs for output in job.outputs)

    @property
    def nbytes(self) -> int:
        """Of the tensors, without the header."""
        return sum(job.nbytes for job in self.jobs)

    @property
    def header(self) -> bytes:
        """What the file begins with. No row of a table straddles two pages of a disk, which is
        read by rows."""
        is_table = any(job.module.endswith(ENGRAM_TABLE) for job in self.jobs)
        metadata = dict(METADATA)
        if self.mark is not None and any(is_draft(job.module) for job in self.jobs):
            metadata[DRAFT_MARK] = self.mark
        return header_bytes(self.tensors, metadata, align=PAGE_BYTES if is_table else 8)

    def file_bytes(self) -> int:
        """Of the whole file."""
        return len(self.header) + self.nbytes


def shards_of(
    jobs: Sequence[Job], layers: int, max_bytes: int, by_layers: bool = True
) -> Iterator[Shard]:
    """Whole jobs per shard: a matrix and its scales are never apart. Layers and drafts begin a new
    one, and each of Engram's tables has one of its own.

    Without `by_layers` small layers share a shard, as they did in earlier conversions.
    """
    groups: list[list[Job]] = [[]]
    size = 0
    for job in jobs:
        before = groups[-1][-1].module if groups[-1] else None
        apart = before is not None and (
            _are_apart(before, job.module)
            or (by_layers and layer_of(before, layers) != layer_of(job.module, layers))
        )
        if groups[-1] and (apart or size + job.nbytes > max_bytes):
            groups.append([])
            size = 0
        groups[-1].append(job)
        size += job.nbytes
    for number, group in enumerate(groups, 1):
        yield Shard(f"model-{number:05d}-of-{len(groups):05d}.safetensors", tuple(group))


def _are_apart(one: str, following: str) -> bool:
    tables = any(module.endswith(ENGRAM_TABLE) for module in (one, following))
    return tables or is_draft(one) != is_draft(following)
