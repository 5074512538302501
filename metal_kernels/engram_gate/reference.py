"""Engram's gate: what was looked up is added to each stream as far as its key fits the stream."""

import mlx.core as mx

from metal_kernels.shared.formats import round_bf16

EPS = 1e-20
"""Beside the mean squares, whatever the model's norms have."""
LEAST_SCORE = 1e-6


def engram_gate(
    streams: mx.array, kv: mx.array, q_weight: mx.array, k_weight: mx.array, *, official: bool
) -> mx.array:
    """`X_i + alpha_i v`, `alpha_i = sigmoid(+-sqrt|s_i|)`, `s_i` the two normed vectors' product.

    streams [B, S, N, D], kv [B, S, N + 1, D] with a key for each stream and then the value, weights
    [N, D] bfloat16 or float32 -> [B, S, N, D] float32. The root has the sign of s, zero counting as
    positive, and |s| is at least LEAST_SCORE; `official` rounds the new streams to bf16. NaN in a
    stream or in its key fills the stream, NaN in the value its channel.
    """
    N, D = streams.shape[2:]
    keys, value = kv[:, :, :N], kv[:, :, N:]
    weight = q_weight.astype(mx.float32) * k_weight.astype(mx.float32)
    product = (streams * weight * keys).sum(axis=-1, keepdims=True)
    score = product * _inverse_rms(streams) * _inverse_rms(keys) * D**-0.5
    root = mx.sqrt(mx.maximum(mx.abs(score), LEAST_SCORE))
    added = streams + mx.sigmoid(mx.where(score < 0, -root, root)) * value
    return round_bf16(added) if official else added


def _inverse_rms(x: mx.array) -> mx.array:
    return mx.rsqrt(mx.square(x).mean(axis=-1, keepdims=True) + EPS)
