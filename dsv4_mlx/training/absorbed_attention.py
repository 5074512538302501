"""Attention of a training step where heads are wider than what their queries are made of.

A query is `W_h r` of a residual r of L channels, an output goes through `A_h` to O channels. Where
L and O are smaller than the width K of a head, the products of queries and keys take fewer
operations as `r . (W_h^T k)`, and those of values as `A_h v` summed by the weights: L + R and O + R
channels in the place of K, R of them rotary, which depend on both positions and stay as they are.
Neither queries nor outputs of K channels are ever made.

`HeadWeights` splits the two matrices; `attend_heads` is softmax attention with keys and values of
each head, in blocks of queries, with a backward pass by hand.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.training.block_attention import BLOCK, Pieces, Visibility


class HeadWeights:
    """The matrices of queries and outputs by head; rotary channels in pairs' halves.

    query [H K, L], output [g O, H / g K], R rotary channels at the end of K.
    """

    def __init__(self, query: mx.array, output: mx.array, heads: int, groups: int, rope: int):
        self.heads, self.groups = heads, groups
        self.query = query.reshape(heads, -1, query.shape[-1])
        self._plain = self.query.shape[1] - rope
        by_group = output.reshape(groups, -1, heads // groups, self.query.shape[1])
        self.output = by_group.swapaxes(1, 2).reshape(heads, -1, self.query.shape[1])

    def queries(self, residual: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        """Residual [B, S, L] -> [H, B, S, L + R], to be multiplied by `keys`."""
        matrices = (self.query[:, self._plain + half :: 2] for half in range(2))
        first, second = (
            mx.moveaxis(_by_heads(residual, matrix.swapaxes(1, 2)), 2, 0) for matrix in matrices
        )
        own = mx.broadcast_to(residual, (self.heads, *residual.shape))
        turned = (first * cos - second * sin, first * sin + second * cos)
        return mx.concatenate([own, *turned], axis=-1)

    def squares(self, residual: mx.array) -> mx.array:
        """`|W_h r|^2`: [B, S, L] -> [H, B, S]."""
        gram = self.query.swapaxes(1, 2) @ self.query
        products = _by_heads(residual, gram) * residual[:, :, None]
        return mx.moveaxis(products.sum(axis=-1), 2, 0)

    def keys(self, rows: mx.array) -> tuple[mx.array, mx.array]:
        """Rotated rows [B, n, K] -> keys [H, B, n, L + R] and values [H, B, n, O + R]."""
        turned = mx.concatenate([rows[..., self._plain :: 2], rows[..., self._plain + 1 :: 2]], -1)
        turned = mx.broadcast_to(turned, (self.heads, *turned.shape))
        query = self.query[:, : self._plain]
        both = mx.concatenate([query, self.output[..., : self._plain].swapaxes(1, 2)], axis=-1)
        absorbed = mx.moveaxis(_by_heads(rows[..., : self._plain], both), 2, 0)
        L = query.shape[-1]
        keys, values = absorbed[..., :L], absorbed[..., L:]
        return mx.concatenate([keys, turned], -1), mx.concatenate([values, turned], -1)

    def outputs(self, attended: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
        """What `attend_heads` gives, [H, B, S, O + R], rotated back and added up: [B, S, g O]."""
        H, B, S, _ = attended.shape
        width, half = self.output.shape[1], cos.shape[-1]
        first, second = attended[..., width : width + half], attended[..., width + half :]
        turned = (first * cos + second * sin, second * cos - first * sin)
        found = attended[..., :width].reshape(H, B * S, width)
        for number, part in enumerate(turned):
            matrix = self.output[..., self._plain + number :: 2]
            found = found + part.reshape(H, B * S, half) @ matrix.swapaxes(1, 2)
        summed = found.reshape(self.groups, H // self.groups, B, S, width).sum(axis=1)
        return mx.moveaxis(summed, 0, 2).reshape(B, S, -1)


def _by_heads(x: mx.array, matrices: mx.array) -> mx.array:
    """x [B, n, i] times every head's matrix [H, i, o], as one product: [B, n, H, o]."""
    H, inner, width = matrices.shape
    side_by_side = matrices.swapaxes(0, 1).reshape(inner, H * width)
    return (x @ side_by_side).reshape(*x.shape[:2], H, width)


def attend_heads(
    q: mx.array,
    scale: mx.array,
    window: tuple[mx.array, mx.array],
    sinks: mx.array,
    entries: tuple[mx.array, mx.array] | None,
    visible: Visibility,
) -> tuple[mx.array, list[mx.array]]:
    """Softmax with sinks of `scale * (q . k)`: [H, B, S, e] float32, and every block's weights.

    q [H, B, S, d], scale [H, B, S], window: keys [H, B, S, d] and values [H, B, S, e] of tokens,
    entries the same of T entries, sinks [H]. Weights [H, B, n, m] carry no gradient.
    """
    S = q.shape[2]
    total = 0 if entries is None else entries[0].shape[2]
    bounds = list(pairwise([*range(0, S, BLOCK), S]))
    blocks = []
    for first, stop in bounds:
        oldest, count, bias = visible.of_block(first, stop, total)
        blocks.append((first, stop, oldest, count, bias[:, :, 0]))

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(*given: mx.array) -> list[mx.array]:
        outputs, weights = [], []
        for first, stop, oldest, count, bias in blocks:
            keys, values = _side_by_side(given, oldest, stop, count)
            own = given[0][:, :, first:stop] @ keys.swapaxes(-1, -2)
            scores = own * given[1][:, :, first:stop, None] + bias
            sink = given[4][:, None, None, None]
            top = mx.maximum(scores.max(axis=-1, keepdims=True), sink)
            weight = mx.exp(scores - top)
            weight = weight / (weight.sum(axis=-1, keepdims=True) + mx.exp(sink - top))
            outputs.append(weight @ values)
            weights.append(weight)
        return [mx.concatenate(outputs, axis=2), *weights]

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangents: Any, outputs: Any) -> list[mx.array]:
        return _backward(list(given), cotangents[0], outputs[1:], blocks)

    output, *weights = cast(
        list[mx.array], core(q, scale, *window, sinks, *(() if entries is None else entries))
    )
    return output, weights


def _side_by_side(given: Any, oldest: int, stop: int, count: int) -> tuple[mx.array, mx.array]:
    keys, values = given[2][:, :, oldest:stop], given[3][:, :, oldest:stop]
    if not count:
        return keys, values
    own = given[5][:, :, :count], given[6][:, :, :count]
    return mx.concatenate([keys, own[0]], axis=2), mx.concatenate([values, own[1]], axis=2)


def _backward(
    given: list[mx.array], cotangent: mx.array, weights: list[mx.array], blocks: list[Any]
) -> list[mx.array]:
    """Cotangents of q, scale, keys, values, sinks and those of entries, in this order."""
    q, scale, keys, values, sinks = given[:5]
    of_q, of_scale, of_sinks = [], [], mx.zeros_like(sinks)
    of_window = Pieces(keys), Pieces(values)
    of_entries = (Pieces(given[5]), Pieces(given[6])) if len(given) > 5 else None
    for (first, stop, oldest, count, _), p in zip(blocks, weights, strict=True):
        own_keys, own_values = _side_by_side(given, oldest, stop, count)
        own_q, d_out = q[:, :, first:stop], cotangent[:, :, first:stop]
        dp = d_out @ own_values.swapaxes(-1, -2)
        inner = (p * dp).sum(axis=-1, keepdims=True)
        # What the sink took of the softmax is what the keys' weights lack to one.
        of_sinks = of_sinks - ((1 - p.sum(axis=-1)) * inner[..., 0]).sum(axis=(1, 2))
        own_scale = scale[:, :, first:stop]
        scaled = p * (dp - inner) * own_scale[..., None]
        own = scaled @ own_keys
        of_q.append(own)
        # sum_k ds (q . k) = q . (ds K), and scale is in `own` already.
        of_scale.append((own * own_q).sum(axis=-1) / own_scale)
        found = scaled.swapaxes(-1, -2) @ own_q, p.swapaxes(-1, -2) @ d_out
        for pieces, rows in zip(of_window, found, strict=True):
            pieces.add(oldest, rows[:, :, : stop - oldest])
        if of_entries is not None and count:
            for pieces, rows in zip(of_entries, found, strict=True):
                pieces.add(0, rows[:, :, stop - oldest :])
    of_rows = [pieces.total() for pieces in (*of_window, *(of_entries or ()))]
    queries = mx.concatenate(of_q, axis=2), mx.concatenate(of_scale, axis=2)
    return [*queries, *of_rows[:2], of_sinks, *of_rows[2:]]
