"""Compressors: every R tokens become one entry (paper §2.3.1 for CSA, §2.3.2 for HCA)."""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.cache import CompressorState
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.layers import Linear, Norm
from dsv4_mlx.rope import RotaryEmbedding


class Compressor(nn.Module):
    """Pools token latents of `width` channels by `ratio`; CSA windows overlap with the last one."""

    def __init__(
        self,
        config: DeepseekV4Config,
        *,
        width: int,
        ratio: int,
        rounding: str,
        ops: SimpleNamespace,
        rope: RotaryEmbedding,
    ):
        super().__init__()
        channels = width * (2 if ratio == 4 else 1)
        self.kv_proj = Linear(config.hidden_size, channels)
        self.gate_proj = Linear(config.hidden_size, channels)
        self.kv_norm = Norm(width)
        self.position_bias = mx.zeros((ratio, channels))
        self._ops, self._rope = ops, rope
        self._options = {
            "ratio": ratio,
            "overlap": ratio == 4,
            "eps": config.rms_norm_eps,
            "rounding": rounding,
        }

    def project(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """[B, S, D] -> latents and scores without the position bias, [B, S, C] float32."""
        return self.kv_proj(x), self.gate_proj(x)

    def absorb(self, kv: mx.array, scores: mx.array, state: CompressorState, position: int) -> None:
        """Add tokens [B, n, C] at `position`; windows they complete become entries of `state`."""
        ratio, n = self._options["ratio"], kv.shape[1]
        # The bias belongs to the absolute position, not to the place in this call.
        phase = (mx.arange(position, position + n)) % ratio
        rows = mx.stack([kv, scores + self.position_bias[phase]], axis=2)
        if state.open_rows is not None:
            rows = mx.concatenate([state.open_rows, rows], axis=1)
        first = position - position % ratio
        cos, sin = self._rope.tables(first, rows.shape[1] // ratio, ratio)
        entries, open_rows, lane = self._ops.compress(
            rows, state.lane, self.kv_norm.weight, cos, sin, **self._options
        )
        state.entries.append(entries)
        state.open_rows = mx.contiguous(open_rows) if open_rows.shape[1] else None
        # Before the first window closes the lane is still the empty one, which is not stored.
        closed_any = position + n >= ratio
        state.lane = mx.contiguous(lane) if lane is not None and closed_any else None
