"""The hyper head: one weighted sum of the streams before the final norm."""

import mlx.core as mx

from metal_kernels.hc_pre.reference import mix_streams
from metal_kernels.shared.formats import round_bf16


def hc_head(
    streams: mx.array,
    fn: mx.array,
    base: mx.array,
    scale: mx.array,
    norm_weight: mx.array,
    *,
    hc_eps: float,
    norm_eps: float,
    official: bool,
) -> mx.array:
    """Streams [B, S, N, D] -> RMS-normed hidden [B, S, D], float32; no Sinkhorn, no post."""
    B, S, N, _ = streams.shape
    mix = mix_streams(streams, fn, norm_eps)
    weights = mx.sigmoid(mix * scale[0] + base[:, None]) + hc_eps
    hidden = (weights.T.reshape(B, S, N, 1) * streams).sum(axis=2)
    if official:
        hidden = round_bf16(hidden)
    return mx.fast.rms_norm(hidden, norm_weight.astype(mx.float32), norm_eps)
