"""Compression: closed windows of token latents become entries, the open one stays open.

Rows are packed as [B, n, 2, C]: projection and score (score with the position bias added).
With overlap (CSA) C is 2 d: the first half of the channels is the lane the *next* window pools,
the second half the window's own lane; without (HCA) C is d.
"""

import mlx.core as mx

from metal_kernels.formats import fp8_kv, hadamard_fp4
from metal_kernels.rotary import rotate


def empty_lane(rows: mx.array, ratio: int) -> mx.array:
    """The previous window of window 0: value 0, score -inf, so that its softmax weight is 0."""
    B, _, _, C = rows.shape
    shape = (B, ratio, 1, C // 2)
    return mx.concatenate([mx.zeros(shape), mx.full(shape, -float("inf"))], axis=2)


def pool(windows: mx.array) -> mx.array:
    """Per-channel softmax over the slots: [B, T, slots, 2, d] -> [B, T, d], float32."""
    weights = mx.softmax(windows[..., 1, :], axis=2, precise=True)
    return (weights * windows[..., 0, :]).sum(axis=2)


def close_windows(
    rows: mx.array, lane: mx.array | None, *, ratio: int, overlap: bool
) -> tuple[mx.array, mx.array | None]:
    """Pool the complete windows of `rows`: entries [B, n // ratio, d] and the next lane.

    A call that completes no window leaves the lane as it was (paper §2.3.1, eq. 9-12).
    """
    B, n, _, C = rows.shape
    closed = n // ratio
    windows = rows[:, : closed * ratio].reshape(B, closed, ratio, 2, C)
    if not overlap:
        return pool(windows), None
    if lane is None:
        lane = empty_lane(rows, ratio)
    if closed == 0:
        return mx.zeros((B, 0, C // 2)), lane
    previous, own = windows[..., : C // 2], windows[..., C // 2 :]
    shifted = mx.concatenate([lane[:, None], previous[:, :-1]], axis=1)
    return pool(mx.concatenate([shifted, own], axis=2)), previous[:, -1]


def compress(
    rows: mx.array,
    lane: mx.array | None,
    norm_weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    *,
    ratio: int,
    overlap: bool,
    eps: float,
    rounding: str,
) -> tuple[mx.array, mx.array, mx.array | None]:
    """Rows since the open window began -> (entries [B, T, d], open rows, lane), float32.

    rows [B, n, 2, C]; lane [B, ratio, 2, d] or None at the start; cos and sin [n // ratio, P] at
    the first position of each closed window. `rounding`: "kv" (bf16, FP8), "index" (Hadamard,
    FP4) or "none".
    """
    entries, lane = close_windows(rows, lane, ratio=ratio, overlap=overlap)
    closed = entries.shape[1]
    open_rows = rows[:, closed * ratio :]
    if closed == 0:
        return entries, open_rows, lane
    entries = mx.fast.rms_norm(entries, norm_weight.astype(mx.float32), eps)
    entries = rotate(entries, cos, sin)
    if rounding == "kv":
        entries = fp8_kv(entries, 2 * cos.shape[-1])
    elif rounding == "index":
        entries = hadamard_fp4(entries)
    return entries, open_rows, lane
