"""A layer's experts that are in memory: slots of arrays that readers fill from files.

The arrays' own memory is what readers write to, through views that MLX knows nothing of. So
whoever multiplies by a slot says so (`read_by`), and no slot is overwritten before that is done; no
array is ever assigned to, which would copy it and leave the views with the old one.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter

import mlx.core as mx
import numpy as np

from dsv4_mlx.weights.expert_files import ExpertPart, ExpertReader
from dsv4_mlx.weights.quantization import PackingKeys
from dsv4_mlx.weights.reading import MLX_DTYPES
from dsv4_mlx.weights.streaming import Bytes


@dataclass(frozen=True)
class LayerParts:
    """The parts of a layer's experts, by matrix, and how each matrix is packed."""

    matrices: dict[str, tuple[ExpertPart, ...]]
    packings: dict[str, PackingKeys]

    @property
    def parts(self) -> list[ExpertPart]:
        """All parts, matrix by matrix."""
        return [part for parts in self.matrices.values() for part in parts]

    def is_like(self, other: "LayerParts") -> bool:
        """Whether both layers' arrays have the same forms."""
        return [part.form for part in self.parts] == [part.form for part in other.parts]

    @property
    def experts(self) -> int:
        """How many experts the layer has."""
        return self.parts[0].form.shape[0]

    @property
    def slot_bytes(self) -> int:
        """Bytes of one expert in memory."""
        return sum(part.nbytes for part in self.parts)

    @property
    def file_bytes(self) -> int:
        """Bytes that are read for one expert."""
        return sum(part.file_bytes for part in self.parts)


@dataclass
class ExpertCounts:
    """What became of the experts that calls wanted; one that a call wants several times in a layer
    counts once. `bytes_read` is the sum of what each miss reads."""

    hits: int = 0
    """Found in a slot."""
    misses: int = 0
    """Read from files, those asked for ahead among them."""
    ahead: int = 0
    """Misses that were asked for before their layer wanted them."""
    ahead_used: int = 0
    """Of these, how many it then wanted."""
    bytes_read: int = 0
    waited: float = 0.0
    """Seconds that layers waited for reads."""


class SlotArrays:
    """Arrays [C, ...] of a layer's parts, and views of the memory of each slot."""

    def __init__(self, layer: LayerParts, slots: int) -> None:
        self.slots = slots
        self.matrices: dict[str, dict[str, mx.array]] = {}
        self._views: list[Bytes] = []
        for matrix, parts in layer.matrices.items():
            fields = self.matrices[matrix] = {}
            for part in parts:
                shape = (slots, *part.form.shape[1:])
                array = fields[part.field] = mx.zeros(shape, MLX_DTYPES[part.form.dtype])
                mx.eval(array)
                view = np.array(array, copy=False)  # of the same memory, and writable
                self._views.append(view.reshape(slots, -1).view(np.uint8))

    def rows(self, slot: int) -> list[Bytes]:
        """The memory of a slot, by part: uint8 [nbytes] each."""
        return [view[slot] for view in self._views]

    def copy(self, slot: int, rows: Sequence[Bytes]) -> None:
        """Copy a slot to `rows`, by part."""
        for row, view in zip(rows, self._views, strict=True):
            row[:] = view[slot]


class SlotPool:
    """The slots of one layer: experts that were used longest ago make room. For one thread."""

    def __init__(
        self,
        number: int,
        layer: LayerParts,
        slots: int,
        reader: ExpertReader,
        counts: ExpertCounts,
    ) -> None:
        self.number, self.layer, self.slots = number, layer, slots
        self.arrays = SlotArrays(layer, slots)
        self.counts = counts
        self._parts, self._reader = layer.parts, reader
        self._held: OrderedDict[int, int] = OrderedDict()  # expert -> slot, the latest used last
        self._free = list(range(slots - 1, -1, -1))
        self._reading: dict[int, list[Future[None]]] = {}
        self._ahead: set[int] = set()
        self._products: list[mx.array] = []
        self._table = np.zeros(layer.experts, np.uint32)

    @property
    def held(self) -> dict[int, int]:
        """Experts in slots, those on their way too, and where; the one used longest ago first."""
        return dict(self._held)

    def request(self, experts: Sequence[int], keep: Collection[int] = ()) -> None:
        """Begin to read what of distinct `experts` is in no slot; what `keep` names stays as well.

        Together they are at most C. The last of `experts` counts as used last.
        """
        self._drop_failed(experts)
        missing = [expert for expert in experts if expert not in self._held]
        for expert in experts:
            if expert in self._ahead:
                self.counts.ahead_used += 1
            elif expert in self._held:
                self.counts.hits += 1
        self._ahead.difference_update(experts)
        self._take(missing, {*experts, *keep})
        self.touch(experts)

    def ask_ahead(self, experts: Sequence[int]) -> None:
        """Begin to read distinct `experts` that a call will want, at most C; those that are there
        already stay."""
        self._drop_failed(experts)
        missing = [expert for expert in experts if expert not in self._held]
        self.touch(expert for expert in experts if expert in self._held)
        self._take(missing, set(experts))
        self._ahead.update(missing)
        self.counts.ahead += len(missing)

    def touch(self, experts: Iterable[int]) -> None:
        """Count `experts` that are held as used now, the last of them last."""
        for expert in experts:
            if expert in self._held:
                self._held.move_to_end(expert)

    def pending(self, experts: Iterable[int]) -> list[int]:
        """Those of requested `experts` for which `wait` would wait."""
        return [
            expert
            for expert in experts
            if not all(read.done() for read in self._reading.get(expert, ()))
        ]

    def wait(self, experts: Iterable[int]) -> None:
        """Wait until requested `experts` are there; CheckpointError for what could not be read,
        whose slots are free again."""
        begin, problem = perf_counter(), None
        for expert in experts:
            reads = self._reading.get(expert)
            if reads is None:
                continue
            failures = [error for read in reads if (error := read.exception()) is not None]
            del self._reading[expert]
            if failures:
                self._drop(expert)
                problem = problem or failures[0]
        self.counts.waited += perf_counter() - begin
        if problem is not None:
            raise problem

    def places(self, experts: np.ndarray) -> np.ndarray:
        """Slots of held experts, uint32 in the shape of `experts`."""
        places: np.ndarray = self._table[experts]
        return places

    def read_by(self, product: mx.array) -> None:
        """Note an array that is computed from slots; these are not overwritten before it is."""
        self._products.append(product)

    def settle(self) -> None:
        """Wait for all that is computed from slots."""
        if self._products:
            mx.eval(self._products)
            self._products = []

    def read_whole(self, into: SlotArrays) -> list[Future[None]]:
        """Begin to fill `into` with all experts of the layer, by number; those that slots hold are
        copied."""
        reads: list[Future[None]] = []
        for expert in range(self.layer.experts):
            slot, rows = self._held.get(expert), into.rows(expert)
            if slot is not None and expert not in self._reading:
                self.arrays.copy(slot, rows)
                self.counts.hits += 1
            else:
                reads += self._reader.begin(self._parts, expert, rows)
                self._count_miss()
        return reads

    def seed(self, experts: Sequence[int], source: SlotArrays) -> None:
        """Hold distinct `experts`, at most C, the last of them as used last; what is in no slot
        comes from `source`, which has all experts of the layer by number."""
        self.settle()
        for expert in experts:
            if expert not in self._held:
                slot = self._free.pop() if self._free else self._evicted({*experts})
                source.copy(expert, self.arrays.rows(slot))
                self._held[expert] = slot
                self._table[expert] = slot
        self.touch(experts)

    def _drop_failed(self, experts: Sequence[int]) -> None:
        """Free the slots of `experts` whose reads failed before anybody waited: the disk may be
        back by now."""
        for expert in experts:
            reads = self._reading.get(expert, ())
            if reads and all(read.done() for read in reads) and any(r.exception() for r in reads):
                del self._reading[expert]
                self._drop(expert)

    def _drop(self, expert: int) -> None:
        self._free.append(self._held.pop(expert))
        self._ahead.discard(expert)

    def _count_miss(self) -> None:
        self.counts.misses += 1
        self.counts.bytes_read += self.layer.file_bytes

    def _take(self, missing: Sequence[int], protected: set[int]) -> None:
        """Give each of the `missing` a slot and begin to read it."""
        if not missing:
            return
        if len(protected) > self.slots:
            raise LookupError(f"{len(protected)} experts do not fit into {self.slots} slots")
        self.settle()
        for expert in missing:
            slot = self._free.pop() if self._free else self._evicted(protected)
            reads = self._reader.begin(self._parts, expert, self.arrays.rows(slot))
            self._held[expert], self._reading[expert] = slot, reads
            self._table[expert] = slot
            self._count_miss()

    def _evicted(self, protected: set[int]) -> int:
        """The slot of the expert that was used longest ago and may go."""
        expert = next(one for one in self._held if one not in protected)
        for read in self._reading.pop(expert, ()):
            read.exception()  # nobody wanted it, so nobody is told
        self._ahead.discard(expert)
        return self._held.pop(expert)
