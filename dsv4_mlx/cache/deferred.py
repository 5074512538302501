"""Deferred commit: compute a block of rows, then keep exactly those that turn out to be right.

    begin(cache)
    logits = model(tokens, cache)     # [1, n], n <= MOST_ROWS; several calls are one block
    commit(cache, keep)               # the first `keep` rows stay, 0 <= keep <= n

Afterwards the cache is what it were if the rows that went had never been there: every array, bit
for bit, and every call that follows. No pool of entries is copied and nothing is computed again;
snapshots and forks taken before the block stay as they are. While a block is open the timeline
cannot be remembered, forked, written to a file or put into a batch; `restore` gives up the block
and goes back, and `commit(cache, 0)` is also what follows a call that failed.

Rows may be read by one call or row by row. Evaluate what a call gave before the next call: entries
that a graph still holds would be copied.
"""

from collections.abc import Sequence

from dsv4_mlx.cache.layer import LayerCache
from dsv4_mlx.errors import CacheError


def begin(cache: Sequence[LayerCache]) -> None:
    """Open a block: rows of the calls to come stay only as far as `commit` says.

    `cache` is that of a model, or `[one]` of an MTP block. CacheError for a batch, before padding
    and while a block is open.
    """
    for layer in cache:
        if not layer.is_plain:
            raise CacheError(
                f"expected a cache of one timeline but found a batch of {len(layer.rows)} rows or "
                "padding; extract the row that is to take back rows."
            )
        layer.rows[0].check_closed()
    for layer in cache:
        layer.rows[0].begin()


def commit(cache: Sequence[LayerCache], keep: int) -> None:
    """Close the block that `begin` opened and keep its first `keep` rows.

    CacheError, and a block that stays open, for more rows than there are; CacheError where none is
    open.
    """
    states = [layer.rows[0] for layer in cache]
    if not all(state.block for state in states):
        raise CacheError("expected an open block but found none; call begin before its rows.")
    rows = open_rows(cache)
    if not 0 <= keep <= rows:
        raise CacheError(
            f"expected to keep 0 to {rows} rows, as the open block has, but found {keep}; "
            "keep rows that the model was given."
        )
    for layer, state in zip(cache, states, strict=True):
        state.commit(keep, layer.role.ratio)


def is_open(cache: Sequence[LayerCache]) -> bool:
    """Whether a block is open."""
    return any(row.block is not None for layer in cache for row in layer.rows)


def open_rows(cache: Sequence[LayerCache]) -> int:
    """Rows that the open block has in every layer; 0 without one."""
    blocks = [(layer.rows[0].position, layer.rows[0].block) for layer in cache]
    return min((0 if block is None else end - block.position for end, block in blocks), default=0)
