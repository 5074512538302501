"""The routed experts of a model that stay in their files, with slots for some of them in memory.

>>> store = ExpertStore(experts, memory=20 * GB)   # by layer and matrix, see `without_experts`
>>> store.slots, store.counts.hits, store.counts.misses, store.counts.bytes_read
>>> store.trace = lambda layer, ids: ...           # of every call, ids [M, k]

`pools` has the slots of each layer (`SlotPool`). All layers share the reader threads, the counters
and the files, which are read without the system's file cache.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.weights.expert_files import MATRICES, ExpertReader, parts_of
from dsv4_mlx.weights.expert_slots import ExpertCounts, LayerParts, SlotPool
from dsv4_mlx.weights.open_files import OpenFiles
from dsv4_mlx.weights.parameters import Parameter
from dsv4_mlx.weights.streaming import THREADS

ExpertTrace = Callable[[int, npt.NDArray[Any]], None]
"""Gets a layer's number and the experts uint32 [M, k] of the M tokens of a call."""


class ExpertStore:
    """Slots for experts of every layer, and the files that have all of them."""

    def __init__(
        self, layers: Mapping[int, LayerParts], slots: int, threads: int = THREADS
    ) -> None:
        """`layers` by number, `slots` for each of them; CheckpointError for files that cannot be
        opened."""
        entries = [e for layer in layers.values() for part in layer.parts for e in part.entries]
        files = OpenFiles((entry.path for entry in entries), stays=False)
        for entry in entries:
            if files.size(entry.path) < entry.start + entry.nbytes:
                raise CheckpointError(
                    f"{entry.path.name} has {files.size(entry.path)} bytes, expected at least "
                    f"{entry.start + entry.nbytes}; download it again."
                )
        self.slots = slots
        """Experts of each layer that are in memory at a time."""
        self.counts = ExpertCounts()
        """Of all layers together, since loading."""
        self.trace: ExpertTrace | None = None
        """Called with the choices of every call, before their experts are there."""
        self.reader = ExpertReader(files, threads)
        self.pools = {
            number: SlotPool(number, layer, slots, self.reader, self.counts)
            for number, layer in layers.items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        return sum(self.slots * pool.layer.slot_bytes for pool in self.pools.values())

    @property
    def waited(self) -> float:
        """Seconds that layers waited for reads since loading."""
        return self.counts.waited

    def facts(self) -> dict[str, int]:
        """`slots` of a layer, and `hits`, `misses` and `bytes_read` since loading."""
        counts = self.counts
        return {
            "slots": self.slots,
            "hits": counts.hits,
            "misses": counts.misses,
            "bytes_read": counts.bytes_read,
        }

    def require_in_place(self) -> None:
        """CheckpointError where other files lie in the place of those that are read."""
        self.reader.require_in_place()

    def saw(self, layer: int, ids: npt.NDArray[Any]) -> None:
        """A call of `layer` chose the experts `ids` [M, k]."""
        if self.trace is not None:
            self.trace(layer, ids)

    def close(self) -> None:
        """Read nothing more and close the files."""
        self.reader.close()


def layer_parts(experts: Mapping[int, Mapping[str, Parameter]]) -> dict[int, LayerParts]:
    """What is read of each layer's experts, from the parameters of its matrices; CheckpointError
    where they cannot be read one by one."""
    return {
        number: LayerParts(
            {matrix: parts_of(matrices[matrix]) for matrix in MATRICES},
            {matrix: matrices[matrix].packing or {} for matrix in MATRICES},
        )
        for number, matrices in experts.items()
    }
