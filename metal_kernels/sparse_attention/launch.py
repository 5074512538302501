"""Geometry of attention: splits of the keys and their merge, or one launch where queries abound.

Counted for Flash at one query (H = 64 heads of K = 512, 583 bytes for a packed row):

| layer at 1M tokens | keys | bytes of rows | of q and output | of partials | FLOPs | launches |
|---|---|---|---|---|---|---|
| window | 128 | 73 KiB | 256 KiB | 1.0 MiB | 17 M | 2 |
| CSA | 128 + 512 | 364 KiB | 256 KiB | 5.0 MiB | 84 M | 2 |
| HCA | 128 + 8,192 | 4.6 MiB | 256 KiB | 10.0 MiB | 1.1 G | 2 |

FLOPs are `4 H K` for a key, the floor: nothing is computed twice. Rows are the floor as far as
memory is concerned, but each of the H / 16 groups of heads reads them, and all but the first find
them in a cache. Partials, `4 K H` bytes for a split, written once and read once, are what it costs
to fill a GPU at one query; they stay in a cache too. Up to eight queries have the splits of one,
chosen by each query's own count of keys, so that a query's numbers do not depend on its neighbours:
5 MiB of partials for each query of a CSA layer. Of more, where B S H / 16 reaches half of the
threadgroups wanted, there is one split, nothing partial and one launch.

A chunk's queries do not share a threadgroup, though neighbours see nearly the same window: 16 heads
of one query already use a decoded row 16 times, as often as registers allow, and more queries in
their place would not use it more. So a chunk of 2,048 queries computes 172 GFLOP in a CSA layer and
has 2,048 * 640 * 583 * 4 bytes of rows, 3.1 GB, come from caches; in memory they are 5 MB and less.
"""

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from metal_kernels.contract import Call, ContractError
from metal_kernels.sources import Prepared, zero_d

MOVING = ("first_position", "origin")
_HEADS = 16  # of a threadgroup: their queries and sums fill its registers
# A GPU of 40 cores is busy with this many threadgroups.
_THREADGROUPS = 160
_FEWEST_KEYS = 32  # of a split; the texts' FEWEST_KEYS
FEW_QUERIES = 8
"""Queries of a call up to which each has the numbers that it has alone."""


@dataclass(frozen=True)
class _Text:
    """A text for a width and a number of heads: its threadgroup and what it has to know of it."""

    name: str
    heads: int  # of a threadgroup
    simdgroups: int
    template: dict[str, int]


@dataclass(frozen=True)
class _Launches:
    """What is made once for calls that look alike."""

    attend: Prepared
    merge: Prepared | None  # where there are splits
    entries: bool  # whether the text reads entries


def sparse_attention(call: Call) -> mx.array:
    """q [B, S, H, K] and stored rows -> [B, S, H, K]: two launches, one where queries abound."""
    arrays, moving, launches = call.arrays, call.moving, call.keep(_launches)
    q, window, sinks, cos, sin = [*arrays.values()][:5]
    # What the text does not read is stood in for.
    entries = arrays["entries"] if launches.entries else window
    selected = arrays["selected"] if "selected" in arrays else _no_selection()
    origin = moving["origin"]
    output, stats = launches.attend(
        *(q, window, sinks, cos, sin, entries, selected),
        zero_d(moving["first_position"]),
        zero_d(origin if isinstance(origin, mx.array) else origin % window.shape[1]),
    )
    if launches.merge is not None:
        (output,) = launches.merge(output, stats, sinks, cos, sin)
    return output.reshape(q.shape)


def _launches(call: Call) -> _Launches:
    """The geometry: of shapes alone, so that it stays the same from token to token.

    Splits of a ring that is not full yet, or of entries that no query sees yet, are empty.
    """
    B, S, H, K, n = (call.sizes[letter] for letter in "BSHKn")
    options, rope = call.options, 2 * call.sizes["P"]
    _check_width(K, rope)
    text = _text(call.backend, K, H)
    chosen = call.sizes.get("k", call.sizes["T"]) if call.sizes.get("T", 0) else 0
    groups = -(-H // text.heads)
    splits = _splits(min(options["sliding_window"], n) + chosen, groups * _queries(B * S))
    template = {"WIDTH": K, "ROPE": rope, "OFFICIAL": options["official"]}
    attend = Prepared(
        call.backend,
        text.name,
        arrays=("q", "window", "sinks", "cos", "sin", "entries", "selected"),
        moving=MOVING,
        scalars={
            "ratio": options["ratio"],
            "sliding_window": options["sliding_window"],
            "splits": splits,
            "scale": K**-0.5,
        },
        outputs={
            "output": ((B * S, splits, H, K), mx.float32),
            "stats": ((B * S, splits, H, 2), mx.float32),
        },
        grid=(32 * text.simdgroups * groups * B * S, splits, 1),
        threadgroup=(32 * text.simdgroups, 1, 1),
        template={
            **template,
            **text.template,
            "ENTRIES": 0 if not chosen else 2 if "selected" in call.arrays else 1,
            "SIMDGROUPS": text.simdgroups,
            "SPLIT": splits > 1,
        },
    )
    merge = Prepared(
        call.backend,
        "sparse_attention_merge",
        arrays=("partials", "stats", "sinks", "cos", "sin"),
        outputs={"output": ((B * S, H, K), mx.float32)},
        grid=(K // 2 * B * S, H, 1),
        threadgroup=(K // 2, 1, 1),
        template=template,
    )
    return _Launches(attend, merge if splits > 1 else None, bool(chosen))


def _text(backend: str, K: int, H: int) -> _Text:
    """Matrices of simdgroups where there are such, if their blocks of 8 dims divide the width."""
    simdgroups = max(n for n in range(1, 9) if K // 8 % n == 0)
    if backend == "metal" and K % 8 == 0 and K // 8 // simdgroups <= 8:
        row_blocks = min(_HEADS // 8, -(-H // 8))
        template = {"ROW_BLOCKS": row_blocks}
        return _Text("sparse_attention_matrix", 8 * row_blocks, simdgroups, template)
    simdgroups = min(8, -(-H // 2))
    return _Text("sparse_attention", 2 * simdgroups, simdgroups, {})


def _queries(queries: int) -> int:
    """Queries as splits count them: a few have the splits of one, and so its numbers."""
    return 1 if queries <= FEW_QUERIES else queries


def _splits(keys: int, threadgroups: int) -> int:
    """Splits for so many keys at most: enough to fill the GPU, none too short.

    Of these a query has as many as the text gives its own count of keys; its others are empty.
    """
    return max(1, min(_THREADGROUPS // threadgroups, keys // _FEWEST_KEYS))


def _check_width(K: int, rope_dims: int) -> None:
    # Below 8 a window of one row is so small an array that MLX makes it constant; rows are device.
    if K % 4 or not 8 <= K <= 512:
        raise ContractError(
            f"sparse_attention: expected a head_dim of 8 to 512 that 4 divides but found {K}; "
            "run the reference."
        )
    if rope_dims > K:
        raise ContractError(
            f"sparse_attention: expected at most {K} rotated dims but found cos for {rope_dims}."
        )


@cache
def _no_selection() -> mx.array:
    return mx.array([[[-1]]], mx.int32)
