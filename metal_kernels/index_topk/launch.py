"""The launches of index_topk: scores of a tile of queries, then the selection among them."""

from dataclasses import dataclass
from functools import cache
from typing import get_args

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.shared.formats import RowStorage, row_shape
from metal_kernels.shared.threadgroups import MOST_THREADS
from metal_kernels.sources import Prepared, zero_d

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
    tiles = call.keep(_tiles)
    if call.sizes["T"] == 0:
        return mx.zeros((call.sizes["B"], call.sizes["S"], 0), mx.int32)
    first_position = zero_d(call.moving["first_position"])
    index_q, head_weights, keys = call.arrays.values()
    selected: list[mx.array] = []
    for tile in tiles:
        if selected:  # else the scores of all tiles may be kept until the first selection
            (keys,) = mx.depends([keys], selected[-1:])
        selected.append(tile(index_q, head_weights, keys, first_position))
    return selected[0] if len(selected) == 1 else mx.concatenate(selected, axis=1)


@dataclass(frozen=True)
class _Tile:
    """The launches of some queries: their scores, and the selection among them."""

    scores: Prepared
    select: "Selection"
    shape: tuple[int, int, int]  # of what is selected, [B, queries, k]

    def __call__(
        self, index_q: mx.array, head_weights: mx.array, keys: mx.array, first_position: mx.array
    ) -> mx.array:
        """Positions int32 [B, queries, k]."""
        (scores,) = self.scores(index_q, head_weights, keys, first_position)
        return self.select(scores.reshape(-1, scores.shape[2])).reshape(self.shape)


def _tiles(call: Call) -> tuple[_Tile, ...]:
    """One for queries whose scores fill at most SCORE_BYTES."""
    _check(call)
    B, S, T = (call.sizes[letter] for letter in "BST")
    if T == 0:
        return ()
    step = max(1, SCORE_BYTES // (4 * B * T))
    return tuple(_tile(call, start, min(step, S - start)) for start in range(0, S, step))


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


def _tile(call: Call, start: int, count: int) -> _Tile:
    """The launches of `count` queries from `start` on."""
    B, T = call.sizes["B"], call.sizes["T"]
    k = min(call.options["k"], T)
    select = Selection.of(call.backend, B * count, T, k)
    return _Tile(index_scores(call, start, count), select, (B, count, k))


def index_scores(call: Call, start: int, count: int) -> Prepared:
    """Scores float32 [B, count, T] of the queries from `start` on."""
    B, T = call.sizes["B"], call.sizes["T"]
    text, tile, threads, template = _geometry(call.backend, call.sizes["K"], B * count * T)
    return Prepared(
        call.backend,
        text,
        arrays=tuple(call.arrays),
        moving=("first_position",),
        scalars={
            "first_query": start,
            "ratio": call.options["ratio"],
            "scale": call.options["scale"],
        },
        outputs={"scores": ((B, count, T), mx.float32)},
        # Neighbouring threadgroups share keys, not queries: a tile of queries fits the cache.
        grid=(threads * count, -(-T // tile), B),
        threadgroup=(threads, 1, 1),
        template=template,
    )


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


@dataclass(frozen=True)
class Selection:
    """Positions of the k highest of every row: [rows, T] float32 -> [rows, k] int32."""

    parts: Prepared | None  # the best of every part, where a row has several
    whole: Prepared

    @classmethod
    def of(cls, backend: str, rows: int, T: int, k: int) -> "Selection":
        """The launches for scores of these sizes, k at most T."""
        split = -(-T // part())
        if split == 1:
            return cls(None, _best(backend, rows, T, 1, k, candidates=False))
        parts = _best(backend, rows, T, split, k, candidates=False)
        return cls(parts, _best(backend, rows, split * k, 1, k, candidates=True))

    def __call__(self, scores: mx.array) -> mx.array:
        # The union of the best k of every part holds the best k of the row.
        positions = scores if self.parts is None else self.parts(scores, scores)[0]
        return self.whole(scores, positions)[0]


def _best(backend: str, rows: int, count: int, parts: int, k: int, *, candidates: bool) -> Prepared:
    """The best k of every part of each row: scores [rows, T], positions [rows, count] -> [rows,
    parts k] int32. `candidates` says that the positions are those that may be chosen; else all may,
    and the scores stand in for them."""
    own_part, most = -(-count // parts), MOST_THREADS["index_select"]
    items = 8 if own_part <= 8 * most else _ITEMS
    threads = min(most, -(-own_part // (items * _SIMD)) * _SIMD)
    return Prepared(
        backend,
        "index_select",
        arrays=("scores", "positions"),
        scalars={"k": k},
        outputs={"selected": ((rows, parts * k), mx.int32)},
        grid=(threads * rows, parts, 1),
        threadgroup=(threads, 1, 1),
        template={"ITEMS": items, "CANDIDATES": candidates},
    )
