"""Arrays that several processes see: the same memory, written by one and read by another."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping

import mlx.core as mx
import numpy as np

from dsv4_mlx.training.muon import Parameters

_ALIGNED = 16  # numbers, a cache line


class SharedArrays:
    """Slots, each with one float32 array of every name; who may write when, the users agree on.

    The memory has no name and no file that stays: it goes with the last process that has its
    `descriptor`. Without one it is made, all zeros; a process that was given one sees the same.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], slots: int, descriptor: int | None = None
    ):
        spans = {
            name: -(-math.prod(shape) // _ALIGNED) * _ALIGNED for name, shape in shapes.items()
        }
        count = max(1, sum(spans.values()) * slots)
        self.descriptor = _unnamed(4 * count) if descriptor is None else descriptor
        numbers = np.frombuffer(mmap.mmap(self.descriptor, 4 * count), np.float32)
        self._slots: list[dict[str, np.ndarray]] = []
        at = 0
        for _ in range(slots):
            views = {}
            for name, shape in shapes.items():
                views[name] = numbers[at : at + math.prod(shape)].reshape(shape)
                at += spans[name]
            self._slots.append(views)

    def write(self, slot: int, arrays: Parameters) -> None:
        """Copy evaluated float32 arrays to where they belong in a slot."""
        for name, value in arrays.items():
            np.copyto(self._slots[slot][name], np.array(value, copy=False))

    def read(self, slot: int, names: Iterable[str]) -> Parameters:
        """Copies of a slot's arrays."""
        return {name: mx.array(self._slots[slot][name]) for name in names}

    def added(self, slots: Iterable[int], names: Iterable[str]) -> Parameters:
        """The sums over slots, in their order."""
        first, *others = slots
        found = {}
        for name in names:
            total = self._slots[first][name]
            for slot in others:
                total = total + self._slots[slot][name]
            found[name] = mx.array(total)
        return found

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)


def _unnamed(size: int) -> int:
    """The descriptor of so many bytes of zeros that no folder lists."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("training")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
