"""Attention of one latent head over the window and compressed entries, with sinks.

Keys are values. The softmax is float32; the sink joins the denominator only. The output is
rotated back by the query's position, so that only relative positions remain.
"""

import mlx.core as mx

from metal_kernels.formats import round_bf16
from metal_kernels.rotary import rotate

# Floats of one tile's scores or gathered keys; a whole chunk's would grow with its length.
_TILE_ELEMENTS = 1 << 23
_SHORTEST_WINDOW_TILE = 64


def attend(
    q: mx.array, keys: mx.array, visible: mx.array, sinks: mx.array, *, official: bool
) -> mx.array:
    """Softmax with sinks: q [B, S, H, K], keys [B, n, K] or [B, S, n, K], visible [.., S, n].

    Returns [B, S, H, K] float32. `official` rounds the unnormalised probabilities to bf16 for the
    value product; the denominator sums the unrounded ones.
    """
    B, S, H, K = q.shape
    queries = q.reshape(B, S * H, K) if keys.ndim == 3 else q
    scores = (queries * K**-0.5) @ keys.swapaxes(-1, -2)
    scores = scores.reshape(B, S, H, -1)
    scores = mx.where(visible[..., None, :], scores, -float("inf"))
    top = mx.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = mx.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True) + mx.exp(sinks[:, None] - top)
    if official:
        weights = round_bf16(weights)
    if keys.ndim == 3:
        weights = weights.reshape(B, S * H, -1)
    return (weights @ keys).reshape(B, S, H, K) / total


def _window_tile(
    window: mx.array, start: int, stop: int, *, earlier: int, sliding_window: int
) -> tuple[mx.array, mx.array]:
    """Window rows that queries [start, stop) can see, and who sees which: [n, K], [S, n]."""
    first = max(0, earlier + start - sliding_window + 1)
    rows = window[:, first : earlier + stop]
    key = mx.arange(first, earlier + stop)
    query = mx.arange(earlier + start, earlier + stop)[:, None]
    return rows, (key <= query) & (key > query - sliding_window)


def _entry_tile(
    entries: mx.array, selected: mx.array | None, first: int, stop: int, ratio: int
) -> tuple[mx.array, mx.array]:
    """Entries for queries at positions [first, stop): all visible ones, or gathered ones."""
    if selected is None:
        count = min(entries.shape[1], stop // ratio)
        complete = (mx.arange(first, stop) + 1) // ratio
        return entries[:, :count].astype(mx.float32), mx.arange(count) < complete[:, None]
    B, S, k = selected.shape
    index = mx.maximum(selected, 0).reshape(B, S * k, 1)
    gathered = mx.take_along_axis(entries, index, axis=1) if B > 1 else entries[:, index[0, :, 0]]
    return gathered.astype(mx.float32).reshape(B, S, k, -1), selected >= 0


def _with_window(
    window: mx.array, seen: mx.array, entries: mx.array, chosen: mx.array
) -> tuple[mx.array, mx.array]:
    """Window and entries side by side as the keys of one softmax."""
    if entries.ndim == 4:
        B, S = entries.shape[:2]
        window = mx.broadcast_to(window[:, None], (B, S, *window.shape[1:]))
        seen = mx.broadcast_to(seen, (B, *seen.shape))
    return mx.concatenate([window, entries], axis=-2), mx.concatenate([seen, chosen], axis=-1)


def _tile_length(q: mx.array, sliding_window: int, entries: int, *, gathered: bool) -> int:
    """Queries per tile; at most about W, since n queries see n + W - 1 window rows."""
    B, S, H, K = q.shape
    longest = min(S, max(_SHORTEST_WINDOW_TILE, sliding_window))
    keys = sliding_window + longest + entries
    return max(1, min(longest, _TILE_ELEMENTS // (B * keys * (H + K * gathered))))


def _after(done: mx.array, array: mx.array) -> mx.array:
    """`array`, to be used only once `done` exists: MLX would run all tiles side by side."""
    return mx.depends([array], [done])[0]


def sparse_attention(
    q: mx.array,
    window: mx.array,
    sinks: mx.array,
    cos: mx.array,
    sin: mx.array,
    entries: mx.array | None = None,
    selected: mx.array | None = None,
    *,
    first_position: int,
    ratio: int,
    sliding_window: int,
    official: bool,
) -> mx.array:
    """Attention output, de-rotated: [B, S, H, K] float32.

    q [B, S, H, K] at positions `first_position + s`; window [B, n, K]: the rows before the chunk
    that are still in reach, then the chunk's own S rows; entries [B, T, K]; selected [B, S, k]
    int32 with -1 for none, or None for every visible entry (`w < (p + 1) // ratio`).
    """
    S = q.shape[1]
    earlier = window.shape[1] - S
    if selected is not None:
        step = _tile_length(q, sliding_window, selected.shape[-1], gathered=True)
    else:
        every = 0 if entries is None else entries.shape[1]
        step = _tile_length(q, sliding_window, every, gathered=False)
    outputs: list[mx.array] = []
    for start in range(0, S, step):
        stop = min(S, start + step)
        rows, seen = _window_tile(
            window, start, stop, earlier=earlier, sliding_window=sliding_window
        )
        rows = rows.astype(mx.float32)
        if outputs:
            rows = _after(outputs[-1], rows)
        if entries is not None:
            tile = None if selected is None else selected[:, start:stop]
            own = _after(outputs[-1], entries) if outputs else entries
            first, last = first_position + start, first_position + stop
            rows, seen = _with_window(rows, seen, *_entry_tile(own, tile, first, last, ratio))
        outputs.append(attend(q[:, start:stop], rows, seen, sinks, official=official))
    output = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=1)
    output = rotate(output, cos[:, None], sin[:, None], inverse=True)
    return round_bf16(output) if official else output
