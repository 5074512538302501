"""The lightning indexer: score every visible entry, keep exactly the best (paper §2.3.1)."""

import mlx.core as mx

from metal_kernels.shared.formats import load_stored
from metal_kernels.shared.selection import exact_top_k

# Floats of one [queries, heads, keys] tile of scores; whole-chunk scores would not fit at 1M.
_TILE_ELEMENTS = 1 << 22
_KEY_TILE = 4096


def index_scores(q: mx.array, head_weights: mx.array, keys: mx.array) -> mx.array:
    """`sum_h a_h relu(q_h . k)`: [B, S, H, K], [B, S, H], stored [B, T, *] -> [B, S, T] float32."""
    B, S, H, K = q.shape
    q = q.reshape(B, S * H, K)
    tiles: list[mx.array] = []
    for start in range(0, keys.shape[1], _KEY_TILE):
        tile = keys[:, start : start + _KEY_TILE]
        if tiles:  # else MLX would run all tiles side by side
            (tile,) = mx.depends([tile], tiles[-1:])
        tile = load_stored(tile, K, 0, "key")
        scores = mx.maximum(q @ tile.swapaxes(1, 2), 0.0)
        scores = head_weights[:, :, None, :] @ scores.reshape(B, S, H, -1)
        tiles.append(scores[:, :, 0])
    return tiles[0] if len(tiles) == 1 else mx.concatenate(tiles, axis=-1)


def index_topk(
    index_q: mx.array,
    head_weights: mx.array,
    keys: mx.array,
    *,
    first_position: int | mx.array,
    ratio: int,
    k: int,
    scale: float,
) -> mx.array:
    """Entries each query attends: [B, S, min(k, T)] int32, ascending, -1 where fewer are visible.

    index_q [B, S, H, K] at positions `first_position + s`, head_weights [B, S, H], which `scale`
    multiplies, keys [B, T, *] as the cache stores them. Entry w is visible iff
    `w < (p + 1) // ratio`. Ties go to the lowest index; a NaN score is never selected.
    """
    B, S, H, _ = index_q.shape
    T = keys.shape[1]
    if T == 0:
        return mx.zeros((B, S, 0), mx.int32)
    weights = head_weights * scale
    step = max(1, _TILE_ELEMENTS // (B * max(H * min(T, _KEY_TILE), T)))
    selected: list[mx.array] = []
    for start in range(0, S, step):
        stop = min(S, start + step)
        own = mx.depends([keys], selected[-1:])[0] if selected else keys
        scores = index_scores(index_q[:, start:stop], weights[:, start:stop], own)
        visible = (mx.arange(start, stop) + first_position + 1) // ratio
        scores = mx.where(mx.arange(T) < visible[:, None], scores, -float("inf"))
        selected.append(exact_top_k(scores, k))
    return selected[0] if len(selected) == 1 else mx.concatenate(selected, axis=1)
