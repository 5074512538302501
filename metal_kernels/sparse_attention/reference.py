"""Attention of one latent head over the window and compressed entries, with sinks.

Keys are values. The softmax is float32; the sink joins the denominator only. The output is
rotated back by the query's position, so that only relative positions remain.

Rounding (official): the value product takes the probabilities exp(z - M) in bfloat16, M being the
largest score of the query's head over all its keys (the sink does not take part). Kernels that see
the keys in splits or tiles may round relative to a power of two instead, with which rounding
commutes; each of their probabilities is then, like the reference's, off by at most 2^-8 of itself.
(The release's own maximum runs over blocks of keys, so its probabilities differ from either.)

NaN: a NaN in q or sinks makes its head's output NaN, one in a key that a query sees makes the
query's output NaN. Rows and entries that no query of the call sees, and entries that are not
selected, may hold anything; where queries share keys (all but selected entries), NaN in a key that
one of them sees may reach its neighbours too.
"""

import mlx.core as mx

from metal_kernels.shared.formats import load_stored, round_bf16
from metal_kernels.shared.rotary import rotate

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


def _moving(
    window: mx.array,
    entries: mx.array | None,
    selected: mx.array | None,
    position: mx.array,
    *,
    origin: int,
    ratio: int,
    sliding_window: int,
) -> tuple[mx.array, mx.array, mx.array | None, mx.array | None]:
    """What one query at any position may see: rows of a window and who is there, entries likewise.

    Shapes follow from those of the arrays alone.
    """
    n = min(window.shape[1], sliding_window)
    positions = position - n + 1 + mx.arange(n)
    rows = mx.take(window, (positions - origin) % window.shape[1], axis=1)
    seen = (positions >= 0)[None]
    if entries is None:
        return rows, seen, None, None
    if selected is None:
        complete = (position + 1) // ratio
        return rows, seen, entries, (mx.arange(entries.shape[1]) < complete)[None]
    own, chosen = _entry_tile(entries, selected, 0, 1, ratio)
    return rows, seen, own, chosen


def _window_tile(
    window: mx.array, first: int, stop: int, *, origin: int, oldest: int, sliding_window: int
) -> tuple[mx.array, mx.array]:
    """Stored rows that queries at [first, stop) can see, and who sees which: [B, n, *], [S, n]."""
    low = max(oldest, first - sliding_window + 1)
    n, start = window.shape[1], (low - origin) % window.shape[1]
    rows = window[:, start : start + stop - low]
    if start + stop - low > n:
        rows = mx.concatenate([rows, window[:, : start + stop - low - n]], axis=1)
    key, query = mx.arange(low, stop), mx.arange(first, stop)[:, None]
    return rows, (key <= query) & (key > query - sliding_window)


def _entry_tile(
    entries: mx.array, selected: mx.array | None, first: int, stop: int, ratio: int
) -> tuple[mx.array, mx.array]:
    """Stored entries for queries at [first, stop): all visible ones, or gathered ones."""
    if selected is None:
        count = min(entries.shape[1], stop // ratio)
        complete = (mx.arange(first, stop) + 1) // ratio
        return entries[:, :count], mx.arange(count) < complete[:, None]
    B, S, k = selected.shape
    index = mx.maximum(selected, 0).reshape(B, S * k, 1)
    gathered = mx.take_along_axis(entries, index, axis=1) if B > 1 else entries[:, index[0, :, 0]]
    # A weight of 0 does not silence NaN; zeroed bytes are zero in every storage.
    gathered = mx.where(
        selected.reshape(B, S * k, 1) >= 0, gathered, mx.zeros_like(gathered[:1, :1])
    )
    return gathered.reshape(B, S, k, -1), selected >= 0


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
    later: list[mx.array] = mx.depends([array], [done])
    return later[0]


def sparse_attention(
    q: mx.array,
    window: mx.array,
    sinks: mx.array,
    cos: mx.array,
    sin: mx.array,
    entries: mx.array | None = None,
    selected: mx.array | None = None,
    *,
    first_position: int | mx.array,
    origin: int,
    ratio: int,
    sliding_window: int,
    official: bool,
) -> mx.array:
    """Attention output, de-rotated: [B, S, H, K] float32.

    q [B, S, H, K] at positions `first_position + s`; window [B, n, *]: stored rows of the last n
    positions, those of the chunk among them, position p at index `(p - origin) mod n`; entries
    [B, T, *], stored; selected [B, S, k] int32 with -1 for none, or None for every visible entry
    (`w < (p + 1) // ratio`). `first_position` may be a 0-d array where S is 1: the window is then a
    ring of which any row may be unseen, and entries may hold more rows than are visible.
    """
    S, K = q.shape[1], q.shape[-1]
    if isinstance(first_position, mx.array):
        return _one_moving(
            *(q, window, sinks, cos, sin, entries, selected),
            position=first_position,
            origin=origin,
            ratio=ratio,
            sliding_window=sliding_window,
            official=official,
        )
    oldest = max(0, first_position + S - window.shape[1])
    if entries is not None and 0 in (
        entries.shape[1],
        1 if selected is None else selected.shape[2],
    ):
        entries = selected = None
    longest = entries if selected is None else selected
    keys = 0 if longest is None else longest.shape[1 if selected is None else 2]
    step = _tile_length(q, sliding_window, keys, gathered=selected is not None)
    outputs: list[mx.array] = []
    for start in range(0, S, step):
        stop = min(S, start + step)
        first, last = first_position + start, first_position + stop
        rows, seen = _window_tile(
            window, first, last, origin=origin, oldest=oldest, sliding_window=sliding_window
        )
        if outputs:
            rows = _after(outputs[-1], rows)
        rows = load_stored(rows, K, 2 * cos.shape[-1], "latent")
        if entries is not None:
            tile = None if selected is None else selected[:, start:stop]
            own = _after(outputs[-1], entries) if outputs else entries
            own, chosen = _entry_tile(own, tile, first, last, ratio)
            own = load_stored(own, K, 2 * cos.shape[-1], "latent")
            rows, seen = _with_window(rows, seen, own, chosen)
        outputs.append(attend(q[:, start:stop], rows, seen, sinks, official=official))
    output = outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=1)
    output = rotate(output, cos[:, None], sin[:, None], inverse=True)
    return round_bf16(output) if official else output


def _one_moving(
    q: mx.array,
    window: mx.array,
    sinks: mx.array,
    cos: mx.array,
    sin: mx.array,
    entries: mx.array | None,
    selected: mx.array | None,
    *,
    position: mx.array,
    official: bool,
    **where: int,
) -> mx.array:
    """One query at a position that is an array."""
    K, rope = q.shape[-1], 2 * cos.shape[-1]
    rows, seen, own, chosen = _moving(window, entries, selected, position, **where)
    rows = load_stored(rows, K, rope, "latent")
    if own is not None and chosen is not None:
        rows, seen = _with_window(rows, seen, load_stored(own, K, rope, "latent"), chosen)
    output = rotate(
        attend(q, rows, seen, sinks, official=official), cos[:, None], sin[:, None], inverse=True
    )
    return round_bf16(output) if official else output
