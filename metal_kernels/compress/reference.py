"""Compression: a window of R tokens becomes one entry, its channels pooled by softmax.

A token's projections are C columns of a row; `kv_column` and `gate_column` say where its latents
and its scores begin, c channels each. With overlap (CSA) c is 2 d: a window pools its own tokens'
last d channels and the previous window's first d; without (HCA) c is d.
"""

import mlx.core as mx

from metal_kernels.shared.formats import RowKind, RowStorage, fp8_kv, hadamard_fp4, store
from metal_kernels.shared.rotary import rotate


def token_rows(
    rows: mx.array, first: int | mx.array, count: int, origin: int | mx.array
) -> mx.array:
    """Rows of the positions from `first` on: that of p lies at (p - origin) mod n of [B, n, C]."""
    n = rows.shape[1]
    start = (first - origin) % n
    if isinstance(start, mx.array):
        return mx.take(rows, (start + mx.arange(count)) % n, axis=1)
    if start + count <= n:
        return rows[:, start : start + count]
    return mx.concatenate([rows[:, start:], rows[:, : start + count - n]], axis=1)


def pool(values: mx.array, scores: mx.array) -> mx.array:
    """Per-channel softmax over the slots: [B, T, slots, d] twice -> [B, T, d], float32."""
    return (mx.softmax(scores, axis=2, precise=True) * values).sum(axis=2)


def with_previous(windows: mx.array, first: bool | mx.array, nothing: float) -> mx.array:
    """Slots of overlapping windows: [B, T (+ 1), R, 2 d] -> [B, T, 2 R, d].

    The first of `windows` is only the previous one of the second, unless it is the `first` of all:
    that one has no previous, `nothing` stands there.
    """
    d = windows.shape[-1] // 2
    previous, own = windows[..., :d], windows[..., d:]
    if isinstance(first, mx.array):
        begin = mx.where(first, nothing, previous[:, :1])
        return mx.concatenate([mx.concatenate([begin, previous[:, 1:-1]], 1), own[:, 1:]], axis=2)
    if first:
        empty = mx.full((windows.shape[0], 1, *windows.shape[2:-1], d), nothing)
        return mx.concatenate([mx.concatenate([empty, previous[:, :-1]], axis=1), own], axis=2)
    return mx.concatenate([previous[:, :-1], own[:, 1:]], axis=2)


def compress(
    rows: mx.array,
    bias: mx.array,
    norm_weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    origin: int | mx.array,
    first_window: int | mx.array,
    windows: int,
    ratio: int,
    kv_column: int,
    gate_column: int,
    eps: float,
    rounding: str,
    storage: RowStorage,
) -> mx.array:
    """Entries of the windows from `first_window` on, as they are stored: [B, T, ...].

    rows [B, n, C] float32, the row of position p at (p - origin) mod n; window w is the positions
    from w R on. Where `first_window` is a 0-d array, rows hold all that any window needs. bias
    [R, c] is added to the scores, and its width says whether windows overlap; cos and sin [T, P]
    belong to each window's first position. `rounding`: "kv" (bf16, FP8), "index"
    (Hadamard, FP4) or "none".
    """
    kind: RowKind = "key" if rounding == "index" else "latent"
    d, rope_dims = norm_weight.size, 2 * cos.shape[-1]
    if windows == 0:
        return store(mx.zeros((rows.shape[0], 0, d)), storage, kind, rope_dims)
    first, c = first_window == 0, bias.shape[-1]
    overlaps = c == 2 * d
    moving = isinstance(first, mx.array)
    count = windows + (overlaps and (moving or not first))
    taken = token_rows(rows, (first_window + windows - count) * ratio, count * ratio, origin)
    taken = taken.reshape(rows.shape[0], count, ratio, rows.shape[-1])
    values = taken[..., kv_column : kv_column + c]
    scores = taken[..., gate_column : gate_column + c] + bias
    if overlaps:
        values = with_previous(values, first, 0.0)
        scores = with_previous(scores, first, -float("inf"))
    entries = mx.fast.rms_norm(pool(values, scores), norm_weight.astype(mx.float32), eps)
    entries = rotate(entries, cos, sin)
    if rounding == "kv":
        entries = fp8_kv(entries, rope_dims)
    elif rounding == "index":
        entries = hadamard_fp4(entries)
    return store(entries, storage, kind, rope_dims)
