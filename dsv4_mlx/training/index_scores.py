"""The lightning indexer in training: its scores with a gradient, its loss, and how well it chooses.

The choice itself has no gradient. The indexer learns from a loss of its own, as in the report's
sparse attention: the KL divergence from the attention that the layer paid to its entries, summed
over heads, to the softmax of the index scores. Nothing of that loss reaches the rest of the model.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import mlx.core as mx

from metal_kernels.shared.selection import exact_top_k

_BLOCK = 64


def index_scores(q: mx.array, head_weights: mx.array, keys: mx.array, ratio: int) -> mx.array:
    """`sum_h a_h relu(q_h . k)`, -inf for entries that are not closed: [B, S, T] float32.

    q [B, S, H, K], head_weights [B, S, H], keys [B, T, K]. The products of a block of queries are
    made again in the backward pass, so that they are never all held.
    """
    S, T = q.shape[1], keys.shape[1]
    blocks = [(a, b, min(T, b // ratio)) for a, b in pairwise([*range(0, S, _BLOCK), S])]

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(q: mx.array, weights: mx.array, keys: mx.array) -> mx.array:
        rows = []
        for first, stop, count in blocks:
            products = _products(q[:, first:stop], keys[:, :count])
            scores = (weights[:, first:stop, None, :] @ products)[:, :, 0]
            rows.append(mx.pad(scores, [(0, 0), (0, 0), (0, T - count)]))
        return mx.concatenate(rows, axis=1)

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        q, weights, keys = given
        of_q, of_weights, of_keys = [], [], mx.zeros_like(keys)
        for first, stop, count in blocks:
            own, open_keys = q[:, first:stop], keys[:, :count]
            d = cotangent[:, first:stop, :count]
            products = _products(own, open_keys)
            of_weights.append((products @ d[..., None])[..., 0])
            d_products = weights[:, first:stop, :, None] * d[:, :, None, :]
            d_products = mx.where(products > 0, d_products, 0.0)
            B, n, H, _count = products.shape
            d_products = d_products.reshape(B, n * H, count)
            of_q.append((d_products @ open_keys).reshape(own.shape))
            added = d_products.swapaxes(1, 2) @ own.reshape(B, n * H, -1)
            of_keys = of_keys + mx.pad(added, [(0, 0), (0, T - count), (0, 0)])
        return [mx.concatenate(of_q, axis=1), mx.concatenate(of_weights, axis=1), of_keys]

    scores = cast(mx.array, core(q, head_weights, keys))
    return mx.where(closed(S, T, ratio), scores, -float("inf"))


def _products(q: mx.array, keys: mx.array) -> mx.array:
    B, n, H, K = q.shape
    return mx.maximum((q.reshape(B, n * H, K) @ keys.swapaxes(1, 2)).reshape(B, n, H, -1), 0.0)


def closed(S: int, T: int, ratio: int) -> mx.array:
    """Which of T entries each of S queries may see: bool [S, T]."""
    return mx.arange(T) < (mx.arange(1, S + 1)[:, None] // ratio)


def chosen_entries(scores: mx.array, k: int) -> mx.array:
    """The `k` best of scores [B, S, T] as `index_topk` chooses them: bool [B, S, T]."""
    scores = mx.stop_gradient(scores)
    T = scores.shape[-1]
    if k >= T:
        return scores > -float("inf")
    selected = exact_top_k(scores, k)
    places = mx.where(selected < 0, T, selected)
    flags = mx.zeros((*scores.shape[:-1], T + 1), mx.bool_)
    return mx.put_along_axis(flags, places, mx.array(True), axis=-1)[..., :T]


def index_loss(scores: mx.array, mass: mx.array, among: mx.array) -> mx.array:
    """Mean KL(mass || softmax of scores) over `among`: [B, S, T] three times -> scalar float32.

    `mass` is what attention paid to each entry, `among` (bool) the entries that are compared: all
    closed ones while attention is dense, the selected ones later. Queries without any count not.
    """
    mass = mx.stop_gradient(mx.where(among, mass, 0.0))
    total = mass.sum(axis=-1, keepdims=True)
    target = mass / mx.maximum(total, 1e-30)
    filled = mx.where(among, scores, -1e30)
    log_share = filled - mx.logsumexp(filled, axis=-1, keepdims=True)
    terms = target * (mx.log(mx.maximum(target, 1e-30)) - mx.where(among, log_share, 0.0))
    counts = total[..., 0] > 0
    per_query = mx.where(counts, terms.sum(axis=-1), 0.0)
    return per_query.sum() / mx.maximum(counts.sum(), 1)


def recall(scores: mx.array, mass: mx.array, best: mx.array, k: int) -> mx.array:
    """Share of the mass on the `k` best entries, over queries that see more of them: scalar.

    `best` (bool [B, S, T]) are the entries that `chosen_entries` chooses. One where no query sees
    more than `k`.
    """
    scores = mx.stop_gradient(scores)
    crowded = (scores > -float("inf")).sum(axis=-1) > k
    kept = mx.where(best, mass, 0.0).sum(axis=-1)
    share = mx.where(crowded, kept / mx.maximum(mass.sum(axis=-1), 1e-30), 0.0)
    count = crowded.sum()
    return mx.stop_gradient(mx.where(count > 0, share.sum() / mx.maximum(count, 1), 1.0))
