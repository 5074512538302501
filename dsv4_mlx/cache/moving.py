"""A position as arrays, so that a graph that was built for one token serves the next ones too.

The numbers that a token's place decides are arguments of the graph instead of constants in it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx


@dataclass(frozen=True)
class Moving:
    """The place of one token at `position`."""

    position: mx.array
    """int32, without dimensions."""
    slots: Mapping[int, mx.array]
    """Where its row lies in a ring, int32 [1], by the ring's size."""
    windows: Mapping[int, mx.array]
    """The window that it lies in, int32 [1], by the ratio: the number of the entry it makes."""
    tables: Mapping[Any, tuple[mx.array, mx.array]]
    """Cosines and sines by who makes them and the ratio; 1 is the token's own position."""

    @classmethod
    def at(
        cls, position: int, sizes: Iterable[int], ratios: Iterable[int], ropes: Iterable[Any]
    ) -> "Moving":
        """Of a position, for rings of these sizes, layers of these ratios and their tables."""
        return cls(
            _number(position),
            {size: _start(position % size) for size in sizes},
            {ratio: _start(position // ratio) for ratio in ratios},
            {
                (rope, ratio): rope.tables(position // ratio * ratio, 1, ratio)
                for rope in ropes
                for ratio in (1, *ratios)
            },
        )

    def leaves(self) -> list[Any]:
        """Its arrays, in an order that `of` knows."""
        pairs = [list(pair) for pair in self.tables.values()]
        return [self.position, list(self.slots.values()), list(self.windows.values()), pairs]

    def of(self, leaves: list[Any]) -> "Moving":
        """The same with other arrays."""
        position, slots, windows, tables = leaves
        return Moving(
            position,
            dict(zip(self.slots, slots, strict=True)),
            dict(zip(self.windows, windows, strict=True)),
            {key: (cos, sin) for key, (cos, sin) in zip(self.tables, tables, strict=True)},
        )


def _number(value: int) -> mx.array:
    return mx.array(value, mx.int32)


def _start(value: int) -> mx.array:
    return mx.array([value], mx.int32)
