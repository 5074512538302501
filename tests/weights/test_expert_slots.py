"""Slots keep their promises whatever is asked of them, in whatever order reads end."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_dtypes import TensorForm
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.weights.expert_files import ExpertPart
from dsv4_mlx.weights.expert_slots import ExpertCounts, LayerParts, SlotPool
from dsv4_mlx.weights.streaming import Bytes

E, WORDS = 8, 3
FORM = TensorForm("U32", (E, 1, WORDS))
ENTRY = TensorEntry("experts", "U32", FORM.shape, Path("shard"), 0, FORM.nbytes)
LAYER = LayerParts({"down_proj": (ExpertPart("weight", FORM, (ENTRY,), False, None),)}, {})


class Disk:
    """Reads that end when the test says so: expert e is e + 1 in all its words."""

    def __init__(self) -> None:
        self.under_way: list[tuple[int, Bytes, Future[None]]] = []
        self.begun = 0
        self.broken: set[int] = set()

    def begin(
        self, parts: Sequence[ExpertPart], expert: int, rows: Sequence[Bytes]
    ) -> list[Future[None]]:
        (row,) = rows
        assert not any(row is other for _, other, _ in self.under_way)
        for _, other, _ in self.under_way:
            assert not np.shares_memory(row, other), "two reads into one slot"
        row[:] = 0xFF
        read = _Read(self)
        self.under_way.append((expert, row, read))
        self.begun += 1
        return [read]

    def end(self, number: int = 0) -> None:
        if not self.under_way:
            return
        expert, row, read = self.under_way.pop(number % len(self.under_way))
        if expert in self.broken:
            read.set_exception(CheckpointError(f"shard could not be read ({expert})"))
            return
        row.view(np.uint32)[:] = expert + 1
        read.set_result(None)

    def close(self) -> None:
        pass


class _Read(Future[None]):
    """Whoever waits for one lets reads end until it has."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk

    def exception(self, timeout: float | None = None) -> BaseException | None:
        while not self.done():
            self._disk.end(-1)
        return super().exception(timeout)


def pool(slots: int) -> tuple[SlotPool, Disk]:
    disk = Disk()
    return SlotPool(0, LAYER, slots, disk, ExpertCounts()), disk  # type: ignore[arg-type]


def values(one: SlotPool, experts: Sequence[int]) -> list[int]:
    """What slots of experts hold, by MLX and not by the views that were written through."""
    array = one.arrays.matrices["down_proj"]["weight"]
    places = mx.array(one.places(np.array(experts)).astype(np.uint32))
    found: list[list[int]] = (array[places] + 0)[:, 0].tolist()
    assert all(len(set(words)) == 1 for words in found)
    return [words[0] for words in found]


calls = st.lists(
    st.tuples(
        st.sampled_from(["request", "ahead", "end", "keep"]),
        st.lists(st.integers(0, E - 1), min_size=1, max_size=5, unique=True),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(slots=st.integers(2, E), calls=calls, broken=st.sets(st.integers(0, E - 1), max_size=2))
def test_invariants(slots: int, calls: list, broken: set[int]) -> None:
    one, disk = pool(slots)
    wanted = 0
    for number, (call, experts, choice) in enumerate(calls):
        experts = experts[:slots]
        disk.broken = broken if number % 3 == 0 else set()
        if call == "end":
            disk.end(choice)
        elif call == "ahead":
            one.ask_ahead(experts)
        else:
            # What is kept does not go, even where it was used longest ago.
            keep = list(one.held)[: slots - len(experts)] if call == "keep" else []
            one.request(experts, keep)
            assert set(experts) | set(keep) <= set(one.held)
            wanted += len(experts)
            try:
                one.wait(experts)
            except CheckpointError:
                lost = set(experts) - set(one.held)
                assert lost and lost <= broken
            else:
                assert values(one, experts) == [expert + 1 for expert in experts]
            assert one.pending(experts) == []
            there = [expert for expert in experts if expert in one.held]
            assert list(one.held)[len(one.held) - len(there) :] == there, "used last"
        held, counts = one.held, one.counts
        assert len(held) <= slots and len(set(held.values())) == len(held)
        assert set(held.values()) <= set(range(slots))
        assert counts.misses == disk.begun
        assert counts.bytes_read == counts.misses * LAYER.file_bytes
        assert counts.hits + counts.misses == wanted + counts.ahead - counts.ahead_used
        assert counts.ahead_used <= counts.ahead <= counts.misses


def test_the_expert_used_longest_ago_makes_room() -> None:
    one, _ = pool(3)
    for experts in ([0, 1], [2], [0], [5]):
        one.request(experts)
        one.wait(experts)
    assert list(one.held) == [2, 0, 5]
    one.touch([2])
    one.request([6, 7])
    assert list(one.held) == [2, 6, 7]


def test_what_is_asked_ahead_counts_once() -> None:
    one, _ = pool(4)
    one.ask_ahead([1, 2])
    one.request([1, 3])
    one.wait([1, 3])
    one.request([1])
    counts = one.counts
    assert (counts.hits, counts.misses, counts.ahead, counts.ahead_used) == (1, 3, 2, 1)


def test_a_read_that_fails_frees_its_slot_and_the_next_one_may_succeed() -> None:
    one, disk = pool(2)
    disk.broken = {3}
    one.request([3, 4])
    with pytest.raises(CheckpointError, match="could not be read"):
        one.wait([3, 4])
    assert list(one.held) == [4] and values(one, [4]) == [5]
    disk.broken = set()
    one.request([3, 4])
    one.wait([3, 4])
    assert values(one, [3, 4]) == [4, 5]


def test_a_read_that_failed_before_it_was_wanted_happens_again() -> None:
    one, disk = pool(2)
    disk.broken = {3}
    one.ask_ahead([3])
    disk.end()
    disk.broken = set()
    one.request([3])
    one.wait([3])
    assert values(one, [3]) == [4]


def test_a_slot_whose_read_nobody_wanted_is_settled_before_it_is_filled_again() -> None:
    one, disk = pool(2)
    disk.broken = {0}
    one.ask_ahead([0, 1])
    one.request([2, 3])  # Disk.begin refuses a second read into one slot
    one.wait([2, 3])
    assert values(one, [2, 3]) == [3, 4]


def test_what_reads_a_slot_is_done_before_it_is_overwritten() -> None:
    """A lazy product of the old experts has their values."""
    one, _ = pool(2)
    one.request([0, 1])
    one.wait([0, 1])
    product = one.arrays.matrices["down_proj"]["weight"].sum(axis=(1, 2))
    one.read_by(product)
    one.request([2, 3])
    one.wait([2, 3])
    assert set(np.array(product).tolist()) == {WORDS, 2 * WORDS}
    assert sorted(values(one, [2, 3])) == [3, 4]


def test_more_than_there_are_slots_is_refused() -> None:
    one, _ = pool(2)
    with pytest.raises(LookupError, match="3 experts do not fit into 2 slots"):
        one.request([0, 1], keep=[2])
