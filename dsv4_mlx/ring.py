"""Rings: the rows of the last positions, the row of position p at index p mod size.

A ring is a plain array [B, size, ...] that is replaced and never assigned into, so a snapshot may
hold it; while nobody else does, MLX writes a new row in place.
"""

import mlx.core as mx


def write(ring: mx.array | None, rows: mx.array, position: int, size: int) -> mx.array:
    """The ring after rows [B, n, ...] of positions `position`, `position + 1`, ..."""
    if ring is None:
        ring = mx.zeros((rows.shape[0], size, *rows.shape[2:]), rows.dtype)
    stop = position + rows.shape[1]
    first = max(position, stop - size)
    while first < stop:
        count = min(stop - first, size - first % size)
        part = rows[:, first - position : first - position + count]
        # Another Python object for the same array: assigning leaves the one that others hold, and
        # to a slice it is one launch, where an array of starts would need a second one.
        ring = ring[:]
        ring[:, first % size : first % size + count] = part
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
