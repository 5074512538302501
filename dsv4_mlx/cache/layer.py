"""The timelines of one layer that go through the model together.

A `LayerCache` holds the states of a batch, one per row, each at its own position. Ragged batches
are therefore exactly their single runs: padding never enters a state. It follows mlx-lm's cache
protocol (`state`, `merge`, `filter`, `extend`, `extract`, `prepare`, `finalize`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.layouts import PLAIN, EntryLayout, layout_named
from dsv4_mlx.cache.state import LayerState, new_state
from dsv4_mlx.errors import CacheError
from dsv4_mlx.release.layer_roles import LayerRole, layer_role


def for_one_call(role: LayerRole) -> "LayerCache":
    """State for one call without a cache: all rows as one from position 0, differentiable."""
    return LayerCache(role, PLAIN, [new_state(role, PLAIN, one_call=True)])


@dataclass
class LayerCache:
    """The timelines of one layer, one per batch row; mlx-lm's cache protocol."""

    role: LayerRole
    layout: EntryLayout
    rows: list[LayerState] = field(default_factory=list)
    _skip: list[int] | None = None  # left padding still to come, per row
    _remaining: list[int] | None = None  # tokens still to come before right padding, per row

    def __post_init__(self) -> None:
        if not self.rows:
            self.rows = [new_state(self.role, self.layout)]

    @property
    def is_plain(self) -> bool:
        """Whether this is a single timeline, of which no padding is expected."""
        return len(self.rows) == 1 and not self._skip and not self._remaining

    def groups(
        self, batch: int, length: int, *, ahead: bool = False
    ) -> list[tuple[slice, slice, LayerState]]:
        """Which rows and which of `length` tokens belong to which state; consumes padding.

        `ahead` asks before the layer's attention does, and leaves the padding to it.
        """
        for row in self.rows:
            row.check_room(length)
        if self.rows[0].one_call:  # one state for the whole batch
            return [(slice(0, batch), slice(0, length), self.rows[0])]
        fresh = len(self.rows) == 1 and self.rows[0].block is None
        if fresh and batch > 1 and self.empty():
            self.rows = [new_state(self.role, self.layout) for _ in range(batch)]
        if len(self.rows) != batch:
            raise CacheError(
                f"expected {len(self.rows)} rows of tokens, as this cache holds, but found "
                f"{batch}; build the batch with merge or extend."
            )
        spans = [self._span(row, length, ahead) for row in range(batch)]
        return [
            (slice(row, row + 1), span, state)
            for row, (span, state) in enumerate(zip(spans, self.rows, strict=True))
            if span.start < span.stop
        ]

    def _span(self, row: int, length: int, ahead: bool) -> slice:
        start, stop = 0, length
        if self._skip:
            start = min(self._skip[row], length)
            self._skip[row] -= 0 if ahead else start
        if self._remaining:
            stop = min(length, start + self._remaining[row])
            self._remaining[row] -= 0 if ahead else stop - start
        return slice(start, stop)

    # mlx-lm's protocol

    @property
    def offset(self) -> int:
        """Tokens seen by the longest row."""
        return max(row.position for row in self.rows)

    def size(self) -> int:
        """Tokens seen, as mlx-lm asks."""
        return self.offset

    def empty(self) -> bool:
        """Whether no token was seen."""
        return self.offset == 0

    def is_trimmable(self) -> bool:
        """Never: closed windows cannot be reopened. Restore a snapshot instead."""
        return False

    def trim(self, n: int) -> int:
        """Refused; see `is_trimmable`."""
        raise CacheError(
            f"expected a snapshot to go back {n} tokens but found trim, which a compressed cache "
            "cannot do exactly; take a snapshot before and restore it."
        )

    def make_mask(self, *_: Any, **__: Any) -> None:
        """No mask: every layer knows what its queries see."""
        return None

    def prepare(
        self,
        *,
        lengths: Sequence[int] | None = None,
        left_padding: Sequence[int] | None = None,
        right_padding: Sequence[int] | None = None,
    ) -> None:
        """Announce padding of the calls to come; only `lengths` tokens of a row enter its state."""
        self._check_closed()
        if left_padding is not None and max(left_padding) > 0:
            self._skip = [int(n) for n in left_padding]
        if lengths is not None and right_padding is not None and max(right_padding) > 0:
            self._remaining = [int(n) for n in lengths]

    def finalize(self) -> None:
        """The padded prompt is over; the next tokens are all real."""
        self._skip = self._remaining = None

    @classmethod
    def merge(cls, caches: Sequence["LayerCache"]) -> "LayerCache":
        """One cache whose rows are those of `caches`; the originals stay usable."""
        first = caches[0]
        return cls(first.role, first.layout, [r.view() for cache in caches for r in cache.rows])

    def filter(self, batch_indices: mx.array | Sequence[int]) -> None:
        """Keep these rows, in this order."""
        indices = _numbers(batch_indices)
        # A view each: the same row may be asked for twice.
        self.rows = [self.rows[i].view() for i in indices]
        if self._skip:
            self._skip = [self._skip[i] for i in indices]
        if self._remaining:
            self._remaining = [self._remaining[i] for i in indices]

    def extend(self, other: "LayerCache") -> None:
        """Append the rows of `other`."""
        self._check_closed()
        self.rows = [*self.rows, *(row.view() for row in other.rows)]

    def extract(self, index: int) -> "LayerCache":
        """One row as a cache of its own."""
        return LayerCache(self.role, self.layout, [self.rows[index].view()])

    def _check_closed(self) -> None:
        for row in self.rows:
            row.check_closed()

    def fork(self) -> "LayerCache":
        """The same timelines, continued independently."""
        return LayerCache(self.role, self.layout, [row.view() for row in self.rows])

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayerCache":
        return self.fork()

    @property
    def nbytes(self) -> int:
        """Bytes held: fixed state of every row and each shared pool once."""
        pools = {pool.pool_id: pool.nbytes for row in self.rows for pool in row.pools()}
        return sum(row.fixed_nbytes for row in self.rows) + sum(pools.values())

    @property
    def state(self) -> list[Any]:
        """Everything that persists, as a tree of arrays, numbers and names."""
        self._check_closed()
        rows: list[Any] = [self.role.ratio, self.layout.name]
        for row in self.rows:
            pools = [pool.rows() for pool in row.pools()]
            ids = [] if row.ids is None else [None] * (2 - len(pools)) + [row.ids]
            rows.append([row.position, row.window, row.open_rows, *pools, *ids])
        return rows

    @state.setter
    def state(self, value: list[Any]) -> None:
        ratio, name, *rows = value
        # Which layer it is of, the state does not say and the cache does not ask.
        self.role, self.layout = layer_role(ratio, layer=0), layout_named(name)
        self._skip = self._remaining = None
        self.rows = [_row_from_state(self.role, self.layout, row) for row in rows]

    @classmethod
    def from_state(cls, state: list[Any]) -> "LayerCache":
        """A cache from what `state` gave."""
        cache = cls.__new__(cls)
        cache.state = state
        return cache


def _numbers(given: mx.array | Sequence[int]) -> list[int]:
    """Whole numbers, as mlx-lm gives them in either form."""
    found: Any = given.tolist() if isinstance(given, mx.array) else given
    return [int(number) for number in found]


def _row_from_state(role: LayerRole, layout: EntryLayout, value: list[Any]) -> LayerState:
    state, (position, *arrays) = new_state(role, layout), value
    named = zip(("window", "open", "entries", "keys", "ids"), arrays, strict=False)
    state.fill(int(position), {name: array for name, array in named if array is not None})
    return state
