"""Which tensors are read from a checkpoint's files while a model is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.weights import reading


@contextmanager
def recorded_reads() -> Iterator[dict[str, int]]:
    """Bytes by tensor, of all that is read for parameters inside."""
    read: dict[str, int] = {}
    lazily, at_once = reading._Reader.__call__, TensorEntry.read

    def noted(entry: TensorEntry) -> None:
        assert entry.name not in read, f"{entry.name} is read twice"
        read[entry.name] = entry.nbytes

    def by_mlx(reader: reading._Reader, entry: TensorEntry):
        noted(entry)
        return lazily(reader, entry)

    def by_numpy(entry: TensorEntry):
        noted(entry)
        return at_once(entry)

    with (
        mock.patch.object(reading._Reader, "__call__", by_mlx),
        mock.patch.object(TensorEntry, "read", by_numpy),
    ):
        yield read
