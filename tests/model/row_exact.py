"""A plan whose results for a token have the bits that they have alone: references, token by token.

A BLAS multiplies one row and several in other orders, so that on a CPU no call of several tokens
has the bits of single ones. Here every op of at most `MOST` tokens is its reference called for each
of them alone, with the keys that it sees in the order of their positions. The backend is called
metal, so that products are the plan's own; MLX computes on the CPU.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from metal_kernels.registry import KernelPlan, as_ops, kernels

MOST = 8

_AXES: dict[str, Mapping[str, int]] = {
    "dense_matvec": {"x": 0},
    "packed_matvec": {"x": 0},
    "hc_pre": {"streams": 1},
    "hc_post": {"streams": 1, "y": 1, "post": 1, "comb": 1, "routed": 1},
    "hc_post_pre": {"streams": 1, "y": 1, "post": 1, "comb": 1},
    "hc_head": {"streams": 1},
    "qkv_prepare": {"projected": 1, "cos": 0, "sin": 0},
    "q_prepare": {"projected": 1, "cos": 0, "sin": 0},
    "router": {"x": 0},
    "hash_router": {"x": 0, "tokens": 0},
    "expert_sum": {"routed": 0, "shared": 0},
    "engram_gate": {"streams": 1, "kv": 1},
}
"""Where the tokens of a call lie in its arrays; the first one's axis is that of the results."""


def row_exact_plan(exact_rows: int = MOST) -> KernelPlan:
    """A plan that says `exact_rows`, and is exact for up to `MOST`."""
    ops: dict[str, Callable[..., Any]] = {name: one.reference for name, one in kernels().items()}
    for name, axes in _AXES.items():
        ops[name] = _one_by_one(ops[name], axes)
    ops["expert_matvec"] = _experts(ops["expert_matvec"])
    ops["compress"] = _windows(ops["compress"])
    ops["index_topk"] = _selections(ops["index_topk"])
    ops["sparse_attention"] = _attention(ops["sparse_attention"])
    chosen = dict.fromkeys(ops, "reference")
    return KernelPlan("metal", as_ops("metal", ops, exact_rows), chosen, exact_rows=exact_rows)


def _one_by_one(op: Callable[..., Any], axes: Mapping[str, int]) -> Callable[..., Any]:
    names = inspect.signature(op)
    first, axis = next(iter(axes.items()))

    def call(*given: Any, **options: Any) -> Any:
        named = names.bind(*given, **options).arguments
        count = named[first].shape[axis]
        if not 1 < count <= MOST:
            return op(**named)
        parts = [op(**named | _row(named, axes, row)) for row in range(count)]
        if isinstance(parts[0], mx.array):
            return mx.concatenate(parts, axis=axis)
        return tuple(
            None if column[0] is None else mx.concatenate(column, axis=axis)
            for column in zip(*parts, strict=True)
        )

    return call


def _row(named: Mapping[str, Any], axes: Mapping[str, int], row: int) -> dict[str, mx.array]:
    given = {name: axis for name, axis in axes.items() if named.get(name) is not None}
    return {name: mx.take(named[name], mx.array([row]), axis) for name, axis in given.items()}


def _experts(op: Callable[..., Any]) -> Callable[..., Any]:
    def call(
        x: mx.array, codes: mx.array, scales: mx.array, experts: mx.array, *rest: Any, **how: Any
    ) -> mx.array:
        count = experts.shape[0]
        each = x.shape[0] // count
        parts = [
            op(x[n * each : (n + 1) * each], codes, scales, experts[n : n + 1], *rest, **how)
            for n in range(count)
        ]
        return mx.concatenate(parts)

    return call


def _windows(op: Callable[..., Any]) -> Callable[..., Any]:
    def call(
        rows: mx.array,
        bias: mx.array,
        norm: mx.array,
        cos: mx.array,
        sin: mx.array,
        *,
        windows: int,
        first_window: int,
        **how: Any,
    ) -> mx.array:
        if windows > 2:  # a block of `MOST` tokens closes no more of 4
            return op(rows, bias, norm, cos, sin, windows=windows, first_window=first_window, **how)
        parts = [
            op(
                *(rows, bias, norm, cos[n : n + 1], sin[n : n + 1]),
                windows=1,
                first_window=first_window + n,
                **how,
            )
            for n in range(windows)
        ]
        return mx.concatenate(parts, axis=1)

    return call


def _selections(op: Callable[..., Any]) -> Callable[..., Any]:
    def call(
        q: mx.array,
        head_weights: mx.array,
        keys: mx.array,
        *,
        first_position: int,
        ratio: int,
        k: int,
        scale: float,
    ) -> mx.array:
        options = {"ratio": ratio, "k": k, "scale": scale}
        if q.shape[1] > MOST:
            return op(q, head_weights, keys, first_position=first_position, **options)
        found = []
        for row in range(q.shape[1]):
            position, one = first_position + row, slice(row, row + 1)
            seen = (position + 1) // ratio
            if seen > k:
                own = q[:, one], head_weights[:, one], keys[:, :seen]
                found.append(op(*own, first_position=position, **options))
            else:
                found.append(mx.array([[[*range(seen), *[-1] * (k - seen)]]], mx.int32))
        return mx.concatenate(found, axis=1)

    return call


def _attention(op: Callable[..., Any]) -> Callable[..., Any]:
    def call(
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
        how = {"ratio": ratio, "sliding_window": sliding_window, "official": official}
        if q.shape[1] > MOST:
            given = q, window, sinks, cos, sin, entries, selected
            return op(*given, first_position=first_position, origin=origin, **how)
        outputs = []
        for row in range(q.shape[1]):
            position, one = first_position + row, slice(row, row + 1)
            low = max(0, position - sliding_window + 1)
            places = [(seen - origin) % window.shape[1] for seen in range(low, position + 1)]
            chosen = None if selected is None else selected[0, row]
            outputs.append(
                op(
                    q[:, one],
                    mx.take(window, mx.array(places), axis=1),
                    *(sinks, cos[one], sin[one], _seen(entries, chosen, position, ratio)),
                    first_position=position,
                    origin=low,
                    **how,
                )
            )
        return mx.concatenate(outputs, axis=1)

    return call


def _seen(
    entries: mx.array | None, chosen: mx.array | None, position: int, ratio: int
) -> mx.array | None:
    """The entries that the query at `position` attends, in their order."""
    if entries is None:
        return None
    ids: Any = range((position + 1) // ratio) if chosen is None else chosen.tolist()
    kept = [number for number in ids if number >= 0]
    return mx.take(entries, mx.array(kept, mx.int32), axis=1) if kept else None
