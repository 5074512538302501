"""Rotary tables: cos and sin of float32 angles, built on the host.

The official code multiplies a float32 position by a float32 frequency and rounds the angle to
float32; at a million tokens any other order of operations is a different angle. GPU sine routines
promise no accurate reduction there either, so tables are computed by numpy and handed down.
"""

from functools import lru_cache

import mlx.core as mx
import numpy as np

from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.release.config import DeepseekV4Config, RopeScaling


def rope_frequencies(dims: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Angle per position of each pair, float32 [dims / 2]; YaRN ramp where `scaling` is given.

    Amplitude stays 1: V4 scales neither cos and sin nor the softmax (no mscale).
    """
    pairs = np.arange(dims // 2, dtype=np.float64)
    frequencies = theta ** (-2.0 * pairs / dims)
    if scaling is not None:

        def correction(rotations: float) -> float:
            span = scaling.original_max_position_embeddings / (rotations * 2 * np.pi)
            return float(dims * np.log(span) / (2 * np.log(theta)))

        low = max(np.floor(correction(scaling.beta_fast)), 0)
        high = min(np.ceil(correction(scaling.beta_slow)), dims - 1)
        ramp = np.clip((pairs - low) / max(high - low, 0.001), 0.0, 1.0)
        frequencies = frequencies * ((1.0 - ramp) + ramp / scaling.factor)
    return frequencies.astype(np.float32)


class RotaryEmbedding:
    """One frequency table; `tables(...)` gives cos and sin for evenly spaced positions."""

    def __init__(self, dims: int, theta: float, scaling: RopeScaling | None):
        self.frequencies = rope_frequencies(dims, theta, scaling)
        # Every layer of a call asks for the same few tables.
        self.tables = lru_cache(maxsize=64)(self._tables)

    def of(
        self, moving: Moving | None, first: int, count: int, stride: int = 1
    ) -> tuple[mx.array, mx.array]:
        """`tables`, or those that a moving position carries."""
        if moving is None:
            return self.tables(first, count, stride)
        return moving.tables[self, stride]

    def _tables(self, first: int, count: int, stride: int = 1) -> tuple[mx.array, mx.array]:
        """Positions first, first + stride, ...: cos and sin, float32 [count, dims / 2]."""
        positions = np.arange(first, first + count * stride, stride).astype(np.float32)
        angles = (positions[:, None] * self.frequencies[None]).astype(np.float64)
        return mx.array(np.cos(angles, dtype=np.float64).astype(np.float32)), mx.array(
            np.sin(angles).astype(np.float32)
        )


def sliding_rope(config: DeepseekV4Config) -> RotaryEmbedding:
    """The table of layers with ratio 0: plain theta, never scaled."""
    return RotaryEmbedding(config.qk_rope_head_dim, config.rope_theta, None)


def compressed_rope(config: DeepseekV4Config) -> RotaryEmbedding:
    """The table of everything in a compressed layer, its window branch included."""
    return RotaryEmbedding(config.qk_rope_head_dim, config.compress_rope_theta, config.rope_scaling)
