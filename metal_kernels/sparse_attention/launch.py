"""Geometry of attention: splits of the keys and their merge, or one launch where queries abound."""

from functools import cache

import mlx.core as mx

from metal_kernels.contract import ContractError
from metal_kernels.registry import kernels
from metal_kernels.sources import launch

_HEADS = 2  # of a simdgroup: their queries and sums fill its registers
_TILE = 8  # rows decoded at once, 16 KiB at 512 dims
_MOST_SIMDGROUPS = 8
# A GPU of 40 cores is busy with this many threadgroups.
_THREADGROUPS = 160
_FEWEST_KEYS = 32


def sparse_attention(
    backend: str,
    q: mx.array,
    window: mx.array,
    sinks: mx.array,
    cos: mx.array,
    sin: mx.array,
    entries: mx.array | None = None,
    selected: mx.array | None = None,
    *,
    first_position: int,
    origin: int,
    ratio: int,
    sliding_window: int,
    official: bool,
) -> mx.array:
    """q [B, S, H, K] and stored rows -> [B, S, H, K]: two launches, one where queries abound."""
    named = {"q": q, "window": window, "sinks": sinks, "cos": cos, "sin": sin}
    sizes = kernels()["sparse_attention"].check({**named, "entries": entries, "selected": selected})
    B, S, H, K = (sizes[letter] for letter in "BSHK")
    _check_width(K, 2 * sizes["P"])
    chosen = 0
    if entries is not None and selected is None:
        chosen = min(entries.shape[1], (first_position + S) // ratio)
    elif selected is not None:
        chosen = selected.shape[2]
    keys = min(sliding_window, window.shape[1], first_position + S) + chosen
    simdgroups = min(_MOST_SIMDGROUPS, -(-H // _HEADS))
    groups = -(-H // (simdgroups * _HEADS))
    splits, keys_per_split = _splits(keys, groups * B * S)
    template = {"WIDTH": K, "ROPE": 2 * sizes["P"], "OFFICIAL": official}
    output, stats = launch(
        backend,
        "sparse_attention",
        # What the text does not read is stood in for.
        inputs={
            **named,
            "entries": entries if chosen and entries is not None else window,
            "selected": _no_selection() if selected is None else selected,
            "first_position": first_position,
            "origin": origin % window.shape[1],
            "ratio": ratio,
            "sliding_window": sliding_window,
            "splits": splits,
            "keys_per_split": keys_per_split,
            "scale": K**-0.5,
        },
        outputs={
            "output": ((B * S, splits, H, K), mx.float32),
            "stats": ((B * S, splits, H, 2), mx.float32),
        },
        grid=(32 * simdgroups * groups, splits, B * S),
        threadgroup=(32 * simdgroups, 1, 1),
        template={
            **template,
            "ENTRIES": 0 if not chosen else 1 if selected is None else 2,
            "SIMDGROUPS": simdgroups,
            "SPLIT": splits > 1,
        },
    )
    if splits > 1:
        (output,) = launch(
            backend,
            "sparse_attention_merge",
            inputs={"partials": output, "stats": stats, "sinks": sinks, "cos": cos, "sin": sin},
            outputs={"output": ((B * S, H, K), mx.float32)},
            grid=(K // 2, H, B * S),
            threadgroup=(K // 2, 1, 1),
            template=template,
        )
    return output.reshape(B, S, H, K)


def _splits(keys: int, threadgroups: int) -> tuple[int, int]:
    """How many splits of how many keys each: enough to fill the GPU, none too short."""
    wanted = max(1, min(_THREADGROUPS // threadgroups, keys // _FEWEST_KEYS))
    keys_per_split = -(-keys // (wanted * _TILE)) * _TILE
    return -(-keys // keys_per_split), keys_per_split


def _check_width(K: int, rope_dims: int) -> None:
    if K % 4 or K > 512:
        raise ContractError(
            f"sparse_attention: expected a head_dim of at most 512 that 4 divides but found {K}; "
            "run the reference"
        )
    if rope_dims > K:
        raise ContractError(
            f"sparse_attention: expected at most {K} rotated dims but found cos for {rope_dims}"
        )


@cache
def _no_selection() -> mx.array:
    return mx.array([[[-1]]], mx.int32)
