"""Attention of a training step: blocks of queries, dense products, and a backward pass by hand.

A block of queries multiplies the keys that any of them may see, laid one after the other: its
window and the entries closed by then. What a single query may not see is masked, selected entries
too, so that nothing is gathered and the backward pass scatters nothing. `attend` gives the same
as `sparse_attention`'s reference before its rotation back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import mlx.core as mx

BLOCK = 64
"""Queries per block: with a window of 128 a block multiplies 191 keys for 128 of each query."""


@dataclass(frozen=True)
class Visibility:
    """What queries see: the last `window` tokens, and of `entries` one per `ratio` tokens.

    `chosen` [B, S, T] bool leaves out entries that were not selected; None leaves out none.
    `segments` are those of packed tokens (`packing`), which the form in C alone knows; None: rows.
    """

    window: int
    ratio: int
    chosen: mx.array | None = None
    segments: mx.array | None = None

    def of_block(self, first: int, stop: int, entries: int) -> tuple[int, int, mx.array]:
        """Of queries [first, stop): the oldest token, the number of entries, and a bias.

        The bias [1 or B, n, 1, m] is 0 for keys that a query sees and -inf for others.
        """
        oldest = max(0, first - self.window + 1)
        query, token = mx.arange(first, stop)[:, None], mx.arange(oldest, stop)
        seen = (token <= query) & (token > query - self.window)
        count = min(entries, stop // self.ratio) if self.ratio else 0
        if count:
            closed = mx.arange(count) < (query + 1) // self.ratio
            if self.chosen is not None:
                closed = closed & self.chosen[:, first:stop, :count]
                seen = mx.broadcast_to(seen, (closed.shape[0], *seen.shape))
            seen = mx.concatenate([seen, closed], axis=-1)
        bias = mx.where(seen, 0.0, -float("inf"))
        return oldest, count, bias.reshape(-1, stop - first, 1, bias.shape[-1])


def attend(
    q: mx.array,
    scale: mx.array,
    kv: mx.array,
    sinks: mx.array,
    entries: mx.array | None,
    visible: Visibility,
) -> tuple[mx.array, list[mx.array]]:
    """Softmax with sinks of `scale * (q . k)`: [B, S, H, K] float32, and every block's weights.

    q [B, S, H, K] rotated, scale [B, S, H], kv [B, S, K], sinks [H], entries [B, T, K] or None.
    The weights [B, n, H, m] of a block are those of `of_block`'s keys; no gradient goes through
    them.
    """
    S = q.shape[1]
    total = 0 if entries is None else entries.shape[1]
    bounds = list(pairwise([*range(0, S, BLOCK), S]))
    blocks = [(first, stop, *visible.of_block(first, stop, total)) for first, stop in bounds]

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> list[mx.array]:
        outputs, weights = [], []
        for first, stop, oldest, count, bias in blocks:
            keys = _keys(given, oldest, stop, count)
            own = slice(first, stop)
            output, weight = _forward(given[0][:, own], given[1][:, own], keys, given[3], bias)
            outputs.append(output)
            weights.append(weight)
        return [mx.concatenate(outputs, axis=1), *weights]

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangents: Any, outputs: Any) -> list[mx.array]:
        return _backward(list(given), cotangents[0], outputs[1:], blocks)

    given = [q, scale, kv, sinks] if entries is None else [q, scale, kv, sinks, entries]
    output, *weights = cast(list[mx.array], core(*given))
    return output, weights


def _keys(given: Any, oldest: int, stop: int, count: int) -> mx.array:
    window = given[2][:, oldest:stop]
    return mx.concatenate([window, given[4][:, :count]], axis=1) if count else window


def _forward(
    q: mx.array, scale: mx.array, keys: mx.array, sinks: mx.array, bias: mx.array
) -> tuple[mx.array, mx.array]:
    B, n, H, K = q.shape
    scores = (q.reshape(B, n * H, K) @ keys.swapaxes(1, 2)).reshape(B, n, H, -1)
    scores = scores * scale[..., None] + bias
    top = mx.maximum(scores.max(axis=-1, keepdims=True), sinks[:, None])
    weights = mx.exp(scores - top)
    weights = weights / (weights.sum(axis=-1, keepdims=True) + mx.exp(sinks[:, None] - top))
    output = weights.reshape(B, n * H, -1) @ keys
    return output.reshape(B, n, H, K), weights


def _backward(
    given: list[mx.array], cotangent: mx.array, weights: list[mx.array], blocks: list[Any]
) -> list[mx.array]:
    """Cotangents of q, scale, kv, sinks and entries, in this order."""
    q, scale, kv, sinks = given[:4]
    B, _, H, K = q.shape
    of_q, of_scale, of_sinks = [], [], mx.zeros_like(sinks)
    of_kv = Pieces(kv)
    of_entries = Pieces(given[4]) if len(given) > 4 else None
    for (first, stop, oldest, count, _), p in zip(blocks, weights, strict=True):
        n, keys = stop - first, _keys(given, oldest, stop, count)
        own_q = q[:, first:stop].reshape(B, n * H, K)
        d_out = cotangent[:, first:stop].reshape(B, n * H, K)
        dp = (d_out @ keys.swapaxes(1, 2)).reshape(p.shape)
        inner = (p * dp).sum(axis=-1, keepdims=True)
        ds = p * (dp - inner)
        # What the sink took of the softmax is what the keys' weights lack to one.
        of_sinks = of_sinks - ((1 - p.sum(axis=-1)) * inner[..., 0]).sum(axis=(0, 1))
        scaled = (ds * scale[:, first:stop, :, None]).reshape(B, n * H, -1)
        own = scaled @ keys
        of_q.append(own.reshape(B, n, H, K))
        # sum_k ds (q . k) = q . (ds K), and scale is in `own` already.
        along = (own * own_q).sum(axis=-1).reshape(B, n, H)
        of_scale.append(along / scale[:, first:stop])
        d_keys = scaled.swapaxes(1, 2) @ own_q + p.reshape(B, n * H, -1).swapaxes(1, 2) @ d_out
        of_kv.add(oldest, d_keys[:, : stop - oldest])
        if of_entries is not None and count:
            of_entries.add(0, d_keys[:, stop - oldest :])
    found = [mx.concatenate(of_q, 1), mx.concatenate(of_scale, 1), of_kv.total(), of_sinks]
    return found if of_entries is None else [*found, of_entries.total()]


class Pieces:
    """A sum over rows [..., n, K] of which every block adds to a part."""

    def __init__(self, like: mx.array):
        self._done: list[mx.array] = []
        self._start = 0
        self._open: mx.array | None = None
        self._like = like

    def add(self, start: int, rows: mx.array) -> None:
        """Add rows to [start, ...); `start` never falls, and rows never end before the last."""
        if self._open is None:
            self._start, self._open = start, rows
            if start:
                self._done.append(mx.zeros_like(self._like[..., :start, :]))
            return
        skip = start - self._start
        if skip:
            self._done.append(self._open[..., :skip, :])
        kept = self._open[..., skip:, :]
        shared = kept.shape[-2]
        parts = [kept + rows[..., :shared, :]] if shared else []
        if rows.shape[-2] > shared:
            parts.append(rows[..., shared:, :])
        self._open = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-2)
        self._start = start

    def total(self) -> mx.array:
        """The sum, zero where nothing was added."""
        if self._open is None:
            return mx.zeros_like(self._like)
        rest = self._like.shape[-2] - self._start - self._open.shape[-2]
        tail = [mx.zeros_like(self._like[..., :rest, :])] if rest else []
        return mx.concatenate([*self._done, self._open, *tail], axis=-2)
