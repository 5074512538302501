"""What Engram needs of a folder beside arrays: the token map, and tables left in their files."""

from dataclasses import dataclass

import numpy as np

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.engram import KEPT_BYTES, EngramConfig
from dsv4_mlx.release.engram_hash import Ids
from dsv4_mlx.release.naming import ENGRAM_TABLE
from dsv4_mlx.release.token_map import TokenMap, read_token_map
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.forms import RowFp8Form
from dsv4_mlx.weights.kept_rows import KeptRows
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.quantization import SCALE_BYTES
from dsv4_mlx.weights.streaming import Bytes, ItemStore, ItemTicket, Ranges


@dataclass
class RowCounts:
    """How often rows were there already; a row that a call wants several times counts once."""

    kept: int = 0
    """Found among the rows that were read lately."""
    ahead: int = 0
    """Asked for ahead, so that they were there or on their way."""
    missed: int = 0
    """Read when they were wanted."""
    nbytes: int = 0
    """Bytes that were asked of the file."""


class _Asked:
    """Distinct rows that are on their way, checked as a loader checks them when they are there."""

    def __init__(self, table: "TableFile", numbers: Ids, ticket: ItemTicket) -> None:
        self.numbers, self._table, self._ticket = numbers, table, ticket
        self._parts: tuple[Bytes, ...] | None = None

    def places(self, numbers: Ids) -> Ids:
        """Where `numbers` [n] lie among these, -1 for those that are not."""
        at = np.searchsorted(self.numbers, numbers).clip(max=max(self.numbers.size - 1, 0))
        if not self.numbers.size:
            return np.full(numbers.size, -1)
        return np.where(self.numbers[at] == numbers, at, -1)

    def result(self) -> tuple[Bytes, ...]:
        """Codes and scales [n, ...], waited for, and kept from then on; CheckpointError."""
        if self._parts is None:
            self._table.forget(self)
            self._parts = self._ticket.result()
            self._table.take(self.numbers, self._parts)
        return self._parts


class TableTicket:
    """Rows that were asked for."""

    def __init__(
        self, shape: tuple[int, ...], places: Ids, buffers: list[Bytes], waiting: list["_Waiting"]
    ) -> None:
        self._shape, self._places = shape, places
        self._buffers, self._waiting = buffers, waiting

    def result(self) -> tuple[Bytes, Bytes]:
        """Codes [..., columns] and scales [..., columns / 32]; CheckpointError."""
        for asked, which, where in self._waiting:
            for buffer, part in zip(self._buffers, asked.result(), strict=True):
                buffer[which] = part[where]
        self._waiting = []
        codes, scales = (
            buffer[self._places].reshape(*self._shape, buffer.shape[1]) for buffer in self._buffers
        )
        return codes, scales


_Waiting = tuple[_Asked, Ids, Ids]
"""Rows on their way, which of a ticket's rows are among them, and where."""


class TableFile:
    """The rows of one table, read from its file; for one thread.

    `kept_bytes` bound the rows that are kept once they were read. Those of the latest two requests
    made ahead are held beside them until they are wanted.
    """

    def __init__(self, parameter: Parameter, kept_bytes: int = KEPT_BYTES) -> None:
        """CheckpointError for a table whose rows are not FP8 with scales of their own."""
        (part,) = parameter.parts
        if part.scales is None or not isinstance(parameter.form, RowFp8Form):
            raise CheckpointError(
                f"{part.weight.name} is expected in FP8 to be read row by row but found "
                f"{part.weight.dtype}; load it into memory or use the release's files."
            )
        rows = parameter.shape[0]
        self._name = part.scales.name
        self._limits = SCALE_BYTES[parameter.form.storage]
        parts = [_ranges(part.weight, rows), _ranges(part.scales, rows)]
        self._store = ItemStore(parts)
        self._widths = [one.nbytes for one in parts]
        self.kept = KeptRows(self._widths, kept_bytes)
        self.counts = RowCounts()
        self._ahead: list[_Asked] = []

    def request(self, rows: Ids) -> TableTicket:
        """Begin to read rows [...] by number, as far as they are neither kept nor on their way."""
        numbers, places = np.unique(rows, return_inverse=True)
        buffers = [np.empty((numbers.size, width), np.uint8) for width in self._widths]
        left = np.flatnonzero(~self.kept.find(numbers, buffers))
        self.counts.kept += numbers.size - left.size
        waiting: list[_Waiting] = []
        for asked in self._ahead:
            left = _found_in(asked, numbers, left, waiting)
        self.counts.ahead += sum(which.size for _, which, _ in waiting)
        self.counts.missed += left.size
        if left.size:
            _found_in(self._read(numbers[left]), numbers, left, waiting)
        return TableTicket(np.shape(rows), places.reshape(-1), buffers, waiting)

    def ask_ahead(self, rows: Ids) -> None:
        """Begin to read rows [...] that will be wanted, as far as they are not on their way."""
        numbers = np.unique(rows)
        for asked in self._ahead:
            numbers = numbers[asked.places(numbers) < 0]
        numbers = numbers[~self.kept.has(numbers)]
        if numbers.size:
            self._ahead = [*self._ahead[-1:], self._read(numbers)]

    def take(self, numbers: Ids, parts: tuple[Bytes, ...]) -> None:
        """Keep what was read; CheckpointError for scales that no table has."""
        (low, high), scales = self._limits, parts[1]
        if scales.size and not low <= scales.min() <= scales.max() <= high:
            raise CheckpointError(
                f"{self._name} holds scale bytes {scales.min()} to {scales.max()}, expected "
                f"{low} to {high}; download the file again."
            )
        self.kept.keep(numbers, parts)

    def forget(self, asked: _Asked) -> None:
        """What was asked for ahead is wanted now."""
        self._ahead = [one for one in self._ahead if one is not asked]

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def _read(self, numbers: Ids) -> _Asked:
        self.counts.nbytes += numbers.size * sum(self._widths)
        return _Asked(self, numbers, self._store.request(numbers))


def _found_in(asked: _Asked, numbers: Ids, left: Ids, waiting: list[_Waiting]) -> Ids:
    """What `asked` has not of the `left` places of `numbers`; what it has is waited for."""
    where = asked.places(numbers[left])
    there = where >= 0
    if there.any():
        waiting.append((asked, left[there], where[there]))
    return left[~there]


def token_map_of(checkpoint: Checkpoint, engram: EngramConfig) -> TokenMap:
    """How token ids are compressed before they are hashed, [V]; CheckpointError where none fits."""
    return read_token_map(checkpoint.folder, engram, checkpoint.config.vocab_size)


def without_tables(plan: ParameterPlan) -> tuple[ParameterPlan, dict[int, Parameter]]:
    """What is left of a plan when Engram's tables stay in files, and these by their layer."""
    tables, others = {}, []
    for parameter in plan.parameters:
        if parameter.module.endswith(ENGRAM_TABLE):
            tables[int(parameter.module.split(".")[2])] = parameter
        else:
            others.append(parameter)
    return ParameterPlan(tuple(others), plan.set_aside, plan.drafts), tables


def _ranges(entry: TensorEntry, rows: int) -> Ranges:
    nbytes = entry.nbytes // rows
    return Ranges(entry.path, range(entry.start, entry.start + rows * nbytes, nbytes), nbytes)
