"""Attention of several queries and of each alone, where their counts of keys differ by one.

Keys are split by their count, so that sums would have another order where neighbours decide it.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dsv4_mlx.device.row_finding import MOST_ROWS
from dsv4_mlx.exact_rows.finding import rows_alike
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.v4 import Model
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops
from metal_kernels.shared.formats import fp8_kv, store
from metal_kernels.shared.rows import RowStorage

_SPLIT_KEYS = 32
"""Counts of keys at whose multiples a query has a split more."""


@dataclass(frozen=True)
class QueryPlace:
    """Queries from `first` on, of layers with entries of `ratio` tokens, 0 for none."""

    first: int
    ratio: int
    selected: int | None = None
    """Entries of a query at most, where layers select."""

    @property
    def name(self) -> str:
        """For people."""
        kind = "the window" if not self.ratio else f"entries of {self.ratio} tokens"
        return f"attention over {kind} from token {self.first:,} on"


def places(config: DeepseekV4Config) -> list[QueryPlace]:
    """Where a block of queries crosses a split: a window that grows, entries, and selections."""
    window, half = config.sliding_window, MOST_ROWS // 2
    growing = max(0, min(2 * _SPLIT_KEYS, window) - half)
    found = {QueryPlace(growing, 0)}
    for role in config.layer_roles:
        if not role.ratio:
            continue
        # A full window, and so many entries beside it that splits change inside the block.
        entries = -(-window // role.ratio)
        entries += -(window + entries) % _SPLIT_KEYS
        found.add(QueryPlace(max(window, role.ratio * entries) - half, role.ratio))
        if role.selects:
            start = role.ratio * (config.index_topk + 1)
            found.add(QueryPlace(start - half, role.ratio, config.index_topk))
    return sorted(found, key=lambda one: (one.ratio, one.first))


def compared_attention(model: Model, ops: Ops) -> dict[str, int]:
    """Of every place the queries that are as single ones, by its name; reads no weights."""
    return {
        place.name: rows_alike(AttentionCalls(model, place, ops).run)
        for place in places(model.config)
    }


class AttentionCalls:
    """Random queries and rows of a timeline at a place, as blocks and as tokens have them."""

    def __init__(self, model: Model, place: QueryPlace, ops: Ops) -> None:
        config, official = model.config, model.numerics is Numerics.OFFICIAL
        self._place, self._ops, self._window = place, ops, config.sliding_window
        self._official, last = official, place.first + MOST_ROWS
        H, K, rope = config.num_attention_heads, config.head_dim, config.qk_rope_head_dim
        keys = mx.random.split(mx.random.key(place.first), 4)
        self._q = mx.random.normal((1, MOST_ROWS, H, K), key=keys[0])
        angles = mx.random.normal((MOST_ROWS, rope // 2), key=keys[1])
        self._cos, self._sin = mx.cos(angles), mx.sin(angles)
        self._sinks = mx.random.normal((H,), key=keys[1])
        storage: RowStorage = model.layout.name
        self._earliest = max(0, place.first - self._window + 1)
        self._rows = stored_rows(last - self._earliest, K, rope, storage, keys[2])
        self._entries: mx.array | None = None
        if place.ratio:
            self._entries = stored_rows(last // place.ratio, K, rope, storage, keys[3])

    def run(self, first: int, count: int) -> mx.array:
        """Queries `first` on: a block [count, H, K], or one as a step of its token has it."""
        position = self._place.first + first
        rows, chosen = slice(first, first + count), self._selected(first, count)
        window, origin = (
            (self._ring(position), 0)
            if count == 1
            else (self._rows[:, : position + count - self._earliest], self._earliest)
        )
        entries = self._entries
        if entries is not None:
            entries = entries[:, : (position + count) // self._place.ratio]
        output = self._ops.sparse_attention(
            self._q[:, rows],
            window,
            self._sinks,
            self._cos[rows],
            self._sin[rows],
            entries,
            chosen,
            first_position=position,
            origin=origin,
            ratio=self._place.ratio,
            sliding_window=self._window,
            official=self._official,
        )
        return output[0]

    def _ring(self, position: int) -> mx.array:
        """The window at a token as decoding keeps it: position p at index p mod W."""
        W = self._window
        seen = np.arange(max(0, position + 1 - W), position + 1)
        index = np.zeros(W, np.int32)
        index[seen % W] = seen - self._earliest
        return self._rows[:, mx.array(index)]

    def _selected(self, first: int, count: int) -> mx.array | None:
        """Entries as an indexer chooses them, ascending; None where a call attends all."""
        most, ratio = self._place.selected, self._place.ratio
        if most is None or (self._place.first + first + count) // ratio <= most:
            return None
        found = np.full((1, count, most), -1, np.int32)
        for row in range(count):
            visible = (self._place.first + first + row + 1) // ratio
            own = np.random.default_rng(first + row).permutation(visible)[:most]
            found[0, row, : len(own)] = np.sort(own)
        return mx.array(found)


def stored_rows(count: int, width: int, rope: int, storage: RowStorage, key: mx.array) -> mx.array:
    """Random rows of a window or of entries as a cache keeps them, [1, count, ...]."""
    rows = mx.random.normal((1, count, width), key=key)
    return store(rows if storage == "float32" else fp8_kv(rows, rope), storage, "latent", rope)
