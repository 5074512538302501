"""The launches of index_topk: scores of a tile of queries, then the selection among them."""

from functools import cache
from typing import get_args

import mlx.core as mx

from metal_kernels import sources
from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.formats import RowStorage, row_shape
from metal_kernels.shared.threadgroups import MOST_THREADS

# Bytes of scores that live at once.
SCORE_BYTES = 32 << 20
# Up to so many scores, threadgroups are half as large.
FEW_SCORES = 1 << 14
# Keys that a thread of the selection keeps in registers, at most.
_ITEMS = 32
_SIMD = 32


def index_topk(call: Call) -> mx.array:
    """index_q [B, S, H, K], head_weights [B, S, H], keys [B, T, R] -> selected [B, S, min(k, T)].

    Decode is two launches, three from 16,385 keys on (65,540 tokens at ratio 4). The scores read
    every key once, R T bytes (68 T packed, K = 128), and write 4 T; they take 2 H K T FLOPs, the
    floor, which is what bounds them: 240 FLOPs per packed byte at 64 heads. Every threadgroup
    reads the query's 4 H K bytes, once per 64 or 128 keys. The selection reads the 4 T bytes
    once. A chunk is the same launches over tiles of queries whose scores fill at most 32 MiB;
    it reads a query's keys anew, through the cache, and skips tiles that the query cannot see.

    A key's score depends on neither its place nor the chunk, so ties stay ties.
    """
    _check(call)
    B, S, T = (call.sizes[letter] for letter in "BST")
    if T == 0:
        return mx.zeros((B, S, 0), mx.int32)
    scalars = {**call.moving, **call.options}
    k = scalars.pop("k")
    step = max(1, SCORE_BYTES // (4 * B * T))
    index_q, head_weights, keys = call.arrays.values()
    selected: list[mx.array] = []
    for start in range(0, S, step):
        if selected:  # else the scores of all tiles may be kept until the first selection
            (keys,) = mx.depends([keys], selected[-1:])
        queries = (start, min(S, start + step))
        scores = index_scores(call.backend, index_q, head_weights, keys, queries=queries, **scalars)
        selected.append(select(call.backend, scores, min(k, T)))
    return selected[0] if len(selected) == 1 else mx.concatenate(selected, axis=1)


def _check(call: Call) -> None:
    """Raise ContractError where the keys are not stored rows of the queries' width."""
    keys, rows = call.arrays["keys"], _stored_rows(call.sizes["K"])
    if (keys.shape[2], keys.dtype) not in rows.values():
        expected = ", ".join(f"{size} {dtype} ({name})" for name, (size, dtype) in rows.items())
        raise ContractError(
            f"index_topk: expected keys as [{call.sizes['B']} T R] with rows of {expected} but "
            f"found {keys.shape} {keys.dtype}."
        )


@cache
def _stored_rows(K: int) -> dict[str, tuple[int, mx.Dtype]]:
    """Elements and dtype of a key of width K in every storage."""
    return {storage: row_shape(storage, "key", K) for storage in get_args(RowStorage)}


def index_scores(
    backend: str,
    index_q: mx.array,
    head_weights: mx.array,
    keys: mx.array,
    *,
    queries: tuple[int, int],
    first_position: int | mx.array,
    ratio: int,
    scale: float,
) -> mx.array:
    """Scores of the queries from `queries[0]` to before `queries[1]`: [B, queries, T] float32."""
    B, T = keys.shape[:2]
    count = queries[1] - queries[0]
    text, tile, threads, template = _geometry(backend, index_q.shape[3], B * count * T)
    (scores,) = sources.launch(
        backend,
        text,
        inputs={
            "index_q": index_q,
            "head_weights": head_weights,
            "keys": keys,
            "first_position": first_position,
            "first_query": queries[0],
            "ratio": ratio,
            "scale": scale,
        },
        outputs={"scores": ((B, count, T), mx.float32)},
        # Neighbouring threadgroups share keys, not queries: a tile of queries fits the cache.
        grid=(threads * count, -(-T // tile), B),
        threadgroup=(threads, 1, 1),
        template=template,
    )
    return scores


def _geometry(backend: str, K: int, work: int) -> tuple[str, int, int, dict[str, int]]:
    """Text, keys per threadgroup, threads per threadgroup and template values."""
    if backend == "cuda":  # the prelude has no matrix instructions
        return "index_scores_fma", 64, 128, {"DIMS": K}
    # 64 registers of a thread hold keys; 16 KiB of threadgroup memory hold heads.
    tiles = 2 if K <= 128 else 1
    staged = max(8, min(128, 4096 // K // 8 * 8))
    # Smaller threadgroups, and more of them, where there are few keys.
    most = MOST_THREADS["index_scores"]
    simdgroups = (most // 2 if work <= FEW_SCORES else most) // _SIMD
    template = {"DIMS": K, "TILES": tiles, "STAGED": staged}
    return "index_scores", simdgroups * tiles * 8, simdgroups * _SIMD, template


def part() -> int:
    """Elements that one threadgroup selects from, all in registers."""
    return _ITEMS * MOST_THREADS["index_select"]


def select(backend: str, scores: mx.array, k: int) -> mx.array:
    """Positions of the k highest of the last axis: [B, S, T] float32 -> [B, S, k] int32."""
    B, S, T = scores.shape
    scores = scores.reshape(B * S, T)
    # The union of the best k of every part holds the best k of the row.
    parts = -(-T // part())
    positions = None if parts == 1 else _select(backend, scores, None, parts, k)
    return _select(backend, scores, positions, 1, k).reshape(B, S, k)


def _select(
    backend: str, scores: mx.array, positions: mx.array | None, parts: int, k: int
) -> mx.array:
    """The best k of every part of each row's positions: [rows, T], [rows, n] -> [rows, parts k]."""
    rows = scores.shape[0]
    own = scores if positions is None else positions
    own_part, most = -(-own.shape[1] // parts), MOST_THREADS["index_select"]
    items = 8 if own_part <= 8 * most else _ITEMS
    threads = min(most, -(-own_part // (items * _SIMD)) * _SIMD)
    (selected,) = sources.launch(
        backend,
        "index_select",
        inputs={"scores": scores, "positions": own, "k": k},
        outputs={"selected": ((rows, parts * k), mx.int32)},
        grid=(threads * rows, parts, 1),
        threadgroup=(threads, 1, 1),
        template={"ITEMS": items, "CANDIDATES": positions is not None},
    )
    return selected
