"""Timelines that stand at the same position, as one state: many answers to one prompt.

A `LayerCache` gives every row of a batch a state of its own, so that attention works row by row.
Rows in lockstep share one `LayerState`, whose arrays have a row for each of them: attention then
works on all of them at once. A prompt is read once and widened to as many rows as it gets answers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.cache.layouts import EntryLayout
from dsv4_mlx.cache.state import LayerState
from dsv4_mlx.errors import CacheError
from dsv4_mlx.release.config import DeepseekV4Config


class LockstepCache(LayerCache):
    """The timelines of one layer in bundles, one state per bundle of rows in lockstep.

    The rows of a bundle are consecutive rows of the batch, the bundles in their order. Rows that
    were fed together from the start are one bundle; `extend` puts bundles beside each other.
    """

    def groups(
        self, batch: int, length: int, *, ahead: bool = False
    ) -> list[tuple[slice, slice, LayerState]]:
        """Which rows of a batch belong to which bundle; CacheError where they do not add up."""
        for state in self.rows:
            state.check_room(length)
        if self.empty():
            return [(slice(0, batch), slice(0, length), self.rows[0])]
        if batch != sum(self.widths):
            raise CacheError(
                f"expected {sum(self.widths)} rows of tokens, as this cache holds, but found "
                f"{batch}; keep the rows of the batch with filter."
            )
        found, start = [], 0
        for width, state in zip(self.widths, self.rows, strict=True):
            found.append((slice(start, start + width), slice(0, length), state))
            start += width
        return found

    @property
    def widths(self) -> list[int]:
        """Rows of every bundle; none while no token was seen."""
        return [0 if state.window is None else state.window.shape[0] for state in self.rows]

    def fork(self) -> "LockstepCache":
        """The same timelines, continued independently."""
        return LockstepCache(self.role, self.layout, [row.view() for row in self.rows])

    def widened(self, times: int) -> "LockstepCache":
        """`times` forks of every row, those of one row beside each other."""
        wide = [
            _taken(state, [row for row in range(width) for _ in range(times)])
            for width, state in zip(self.widths, self.rows, strict=True)
        ]
        return LockstepCache(self.role, self.layout, wide)

    def filter(self, batch_indices: mx.array | Sequence[int]) -> None:
        """Keep these rows of the batch, given in ascending order; empty bundles go."""
        given: Any = (
            batch_indices.tolist() if isinstance(batch_indices, mx.array) else batch_indices
        )
        indices = [int(index) for index in given]
        kept, start = [], 0
        for width, state in zip(self.widths, self.rows, strict=True):
            own = [i - start for i in indices if start <= i < start + width]
            if own:
                kept.append(state if len(own) == width else _taken(state, own))
            start += width
        self.rows = kept

    def extract(self, index: int) -> LayerCache:
        """One row of the batch as a cache of its own, which reads on alone."""
        one = self.fork()
        one.filter([index])
        return LayerCache(self.role, self.layout, one.rows)


def lockstep_cache(config: DeepseekV4Config, layout: EntryLayout) -> list[LayerCache]:
    """An empty cache of a whole model whose first call makes a bundle of its rows."""
    return [LockstepCache(role, layout) for role in config.layer_roles]


def widened(cache: Sequence[LayerCache], times: int) -> list[LayerCache]:
    """A lockstep cache with `times` forks of every row, those of one row beside each other."""
    found: list[LayerCache] = []
    for layer in cache:
        if not isinstance(layer, LockstepCache):
            raise CacheError("expected a lockstep cache but found another; make one first.")
        found.append(layer.widened(times))
    return found


def _taken(state: LayerState, rows: list[int]) -> LayerState:
    """The timelines of `rows` of a bundle, copied."""
    state.check_closed()
    index = mx.array(rows, mx.int32)

    def taken(array: mx.array | None) -> mx.array | None:
        return None if array is None else mx.take(array, index, axis=0)

    def pool(entries: Entries | None) -> Entries | None:
        return None if entries is None else Entries.from_rows(taken(entries.rows()))

    return replace(
        state,
        window=taken(state.window),
        open_rows=taken(state.open_rows),
        ids=taken(state.ids),
        entries=pool(state.entries),
        keys=pool(state.keys),
        moments={},
    )
