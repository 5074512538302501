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
to fill a GPU at one query; they stay in a cache too. Where B S H / 16 reaches half of the
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
from metal_kernels.sources import launch

_TILE = 8  # rows decoded at once
_HEADS = 16  # of a threadgroup: their queries and sums fill its registers
# A GPU of 40 cores is busy with this many threadgroups.
_THREADGROUPS = 160
_FEWEST_KEYS = 32


@dataclass(frozen=True)
class _Text:
    """A text for a width and a number of heads: its threadgroup and what it has to know of it."""

    name: str
    heads: int  # of a threadgroup
    simdgroups: int
    template: dict[str, int]


def sparse_attention(call: Call) -> mx.array:
    """q [B, S, H, K] and stored rows -> [B, S, H, K]: two launches, one where queries abound."""
    B, S, H, K, n = (call.sizes[letter] for letter in "BSHKn")
    options, rope = call.options, 2 * call.sizes["P"]
    _check_width(K, rope)
    text = _text(call.backend, K, H)
    chosen = _chosen(call)
    keys = min(options["sliding_window"], n, options["first_position"] + S) + chosen
    groups = -(-H // text.heads)
    splits, keys_per_split = _splits(keys, groups * B * S)
    template = {"WIDTH": K, "ROPE": rope, "OFFICIAL": options["official"]}
    output, stats = launch(
        call.backend,
        text.name,
        inputs={
            **_read(call, chosen),
            "first_position": options["first_position"],
            "origin": options["origin"] % n,
            "ratio": options["ratio"],
            "sliding_window": options["sliding_window"],
            "splits": splits,
            "keys_per_split": keys_per_split,
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
    if splits > 1:
        output = _merged(call, output, stats, template)
    return output.reshape(B, S, H, K)


def _read(call: Call, chosen: int) -> dict[str, mx.array]:
    """The call's arrays; what the text does not read is stood in for."""
    window, entries = call.arrays["window"], call.arrays.get("entries")
    return {
        **call.arrays,
        "entries": window if entries is None or not chosen else entries,
        "selected": call.arrays.get("selected", _no_selection()),
    }


def _merged(
    call: Call, partials: mx.array, stats: mx.array, template: dict[str, int | bool]
) -> mx.array:
    """Partial outputs [B S, splits, H, K] of splits, their maxima and sums -> [B S, H, K]."""
    queries, _, H, K = partials.shape
    (output,) = launch(
        call.backend,
        "sparse_attention_merge",
        inputs={
            "partials": partials,
            "stats": stats,
            **{name: call.arrays[name] for name in ("sinks", "cos", "sin")},
        },
        outputs={"output": ((queries, H, K), mx.float32)},
        grid=(K // 2 * queries, H, 1),
        threadgroup=(K // 2, 1, 1),
        template=template,
    )
    return output


def _chosen(call: Call) -> int:
    """Entries that the last query may attend, holes included."""
    T, stop = call.sizes.get("T", 0), call.options["first_position"] + call.sizes["S"]
    if not T:
        return 0
    return call.sizes["k"] if "selected" in call.arrays else min(T, stop // call.options["ratio"])


def _text(backend: str, K: int, H: int) -> _Text:
    """Matrices of simdgroups where there are such, if their blocks of 8 dims divide the width."""
    simdgroups = max(n for n in range(1, 9) if K // 8 % n == 0)
    if backend == "metal" and K % 8 == 0 and K // 8 // simdgroups <= 8:
        row_blocks = min(_HEADS // 8, -(-H // 8))
        template = {"ROW_BLOCKS": row_blocks}
        return _Text("sparse_attention_matrix", 8 * row_blocks, simdgroups, template)
    simdgroups = min(8, -(-H // 2))
    return _Text("sparse_attention", 2 * simdgroups, simdgroups, {})


def _splits(keys: int, threadgroups: int) -> tuple[int, int]:
    """How many splits of how many keys each: enough to fill the GPU, none too short."""
    wanted = max(1, min(_THREADGROUPS // threadgroups, keys // _FEWEST_KEYS))
    keys_per_split = -(-keys // (wanted * _TILE)) * _TILE
    return -(-keys // keys_per_split), keys_per_split


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
