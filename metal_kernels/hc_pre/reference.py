"""mHC before a sublayer: mixing weights from the streams, Sinkhorn, collapse, RMSNorm."""

import mlx.core as mx

from metal_kernels.shared.formats import round_bf16


def split_mix(
    mix: mx.array, scale: mx.array, base: mx.array, *, streams: int, iters: int, eps: float
) -> tuple[mx.array, mx.array, mx.array]:
    """Raw mix [(2 + N) N, M] -> pre [N, M], post [N, M], comb [N, N, M] (row j, column k).

    Tokens are the last axis, so that every step of the iteration runs over contiguous rows.
    Order of the official kernel: row softmax + eps, column step, then `iters - 1` row and column
    steps; the last step is a column step (paper §2.2, eq. 8 writes the other order).
    """
    N = streams
    base = base[:, None]
    pre = mx.sigmoid(mix[:N] * scale[0] + base[:N]) + eps
    post = 2.0 * mx.sigmoid(mix[N : 2 * N] * scale[1] + base[N : 2 * N])
    comb = (mix[2 * N :] * scale[2] + base[2 * N :]).reshape(N, N, -1)
    comb = mx.exp(comb - comb.max(axis=1, keepdims=True))
    comb = comb / comb.sum(axis=1, keepdims=True) + eps
    comb = comb / (comb.sum(axis=0, keepdims=True) + eps)
    for _ in range(iters - 1):
        comb = comb / (comb.sum(axis=1, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=0, keepdims=True) + eps)
    return pre, post, comb


def mix_streams(streams: mx.array, fn: mx.array, norm_eps: float) -> mx.array:
    """`fn @ RMS(flatten(streams))`: [B, S, N, D], [M, N D] -> [M, B S], float32."""
    flat = streams.reshape(-1, streams.shape[-2] * streams.shape[-1])
    inverse_rms = mx.rsqrt(mx.square(flat).mean(axis=-1) + norm_eps)
    return (fn @ flat.T) * inverse_rms


def hc_pre(
    streams: mx.array,
    fn: mx.array,
    base: mx.array,
    scale: mx.array,
    norm_weight: mx.array,
    *,
    iters: int,
    hc_eps: float,
    norm_eps: float,
    official: bool,
) -> tuple[mx.array, mx.array, mx.array]:
    """Streams [B, S, N, D] -> normed input [B, S, D], post [B, S, N], comb [B, S, N, N].

    All float32; `official` rounds the collapsed input to bf16 before the RMSNorm.
    """
    B, S, N, _ = streams.shape
    mix = mix_streams(streams, fn, norm_eps)
    pre, post, comb = split_mix(mix, scale, base, streams=N, iters=iters, eps=hc_eps)
    collapsed = (pre.T.reshape(B, S, N, 1) * streams).sum(axis=2)
    if official:
        collapsed = round_bf16(collapsed)
    normed = mx.fast.rms_norm(collapsed, norm_weight.astype(mx.float32), norm_eps)
    comb = comb.reshape(N * N, -1).T.reshape(B, S, N, N)
    return normed, post.T.reshape(B, S, N), comb
