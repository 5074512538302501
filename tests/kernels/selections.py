"""The selection of index_topk alone, on scores that a test makes."""

import mlx.core as mx

from metal_kernels.index_topk.launch import Selection


def selected(backend: str, scores: mx.array, k: int) -> mx.array:
    """Positions of the k highest of the last axis: [B, S, T] float32 -> [B, S, k] int32."""
    B, S, T = scores.shape
    return Selection.of(backend, B * S, T, k)(scores.reshape(B * S, T)).reshape(B, S, k)
