"""Rings: the rows of the last positions, the row of position p at index p mod size.

A ring is a plain array [B, size, ...] that is replaced and never assigned into, so a snapshot may
hold it; while nobody else does, MLX writes a new row in place.
"""

import mlx.core as mx


def with_rows(array: mx.array, rows: mx.array, start: int) -> mx.array:
    """`array` [B, size, ...] with `rows` at [start, start + n), in place if nobody else holds it.

    Slices known on the host cost one launch on a GPU, an array of starts costs a second one.
    """
    updated = array[:]  # another name for the same memory: assignment changes the name alone
    updated[:, start : start + rows.shape[1]] = rows
    return updated


def write(ring: mx.array | None, rows: mx.array, position: int, size: int) -> mx.array:
    """The ring after rows [B, n, ...] of positions `position`, `position + 1`, ..."""
    if ring is None:
        ring = mx.zeros((rows.shape[0], size, *rows.shape[2:]), rows.dtype)
    stop = position + rows.shape[1]
    first = max(position, stop - size)
    while first < stop:
        count = min(stop - first, size - first % size)
        part = rows[:, first - position : first - position + count]
        ring = with_rows(ring, part, first % size)
        first += count
    return ring


def read(ring: mx.array, first: int, stop: int) -> mx.array:
    """Rows of positions [first, stop) in their order: [B, stop - first, ...]."""
    size, parts = ring.shape[1], []
    while first < stop:
        count = min(stop - first, size - first % size)
        parts.append(ring[:, first % size : first % size + count])
        first += count
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)


def followed_by(ring: mx.array | None, rows: mx.array, position: int, earlier: int) -> mx.array:
    """The `earlier` rows before `position` and then `rows`: [B, earlier + n, ...]."""
    if ring is None or earlier == 0:
        return rows
    return mx.concatenate([read(ring, position - earlier, position), rows], axis=1)
