"""What Engram needs of a folder beside arrays: the token map, and tables left in their files."""

import numpy as np
import numpy.typing as npt

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.release.naming import ENGRAM_TABLE
from dsv4_mlx.release.token_map import TokenMap, read_token_map
from dsv4_mlx.weights.checkpoint import Checkpoint
from dsv4_mlx.weights.forms import RowFp8Form
from dsv4_mlx.weights.parameters import Parameter, ParameterPlan
from dsv4_mlx.weights.quantization import SCALE_BYTES
from dsv4_mlx.weights.streaming import Bytes, ItemStore, ItemTicket, Ranges


class TableTicket:
    """Rows that were asked for, their scales checked as a loader checks them."""

    def __init__(self, ticket: ItemTicket, name: str, low: int, high: int) -> None:
        self._ticket, self._name, self._low, self._high = ticket, name, low, high

    def result(self) -> tuple[Bytes, Bytes]:
        """Codes [..., columns] and scales [..., columns / 32]; CheckpointError."""
        codes, scales = self._ticket.result()
        if scales.size and not self._low <= scales.min() <= scales.max() <= self._high:
            raise CheckpointError(
                f"{self._name} holds scale bytes {scales.min()} to {scales.max()}, expected "
                f"{self._low} to {self._high}; download the file again."
            )
        return codes, scales


class TableFile:
    """The rows of one table, read from its file."""

    def __init__(self, parameter: Parameter) -> None:
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
        self._store = ItemStore([_ranges(part.weight, rows), _ranges(part.scales, rows)])

    def request(self, rows: npt.NDArray[np.int64]) -> TableTicket:
        """Begin to read rows [...] by number."""
        return TableTicket(self._store.request(rows), self._name, *self._limits)

    def close(self) -> None:
        """Close the file."""
        self._store.close()


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
    return ParameterPlan(tuple(others), plan.set_aside), tables


def _ranges(entry: TensorEntry, rows: int) -> Ranges:
    nbytes = entry.nbytes // rows
    return Ranges(entry.path, range(entry.start, entry.start + rows * nbytes, nbytes), nbytes)
