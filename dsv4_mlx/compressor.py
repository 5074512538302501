"""Compressors: every R tokens become one entry (paper §2.3.1 for CSA, §2.3.2 for HCA).

The projections of a token wait as raw rows until their window closes; see `compress` for the
pooling. Several compressors of one layer share the rows, each reading columns of its own.
"""

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.entries import Entries
from dsv4_mlx.layers import Linear, Norm
from dsv4_mlx.rope import RotaryEmbedding
from metal_kernels.ops import Ops


class Compressor(nn.Module):
    """Pools token latents of `width` channels by `ratio`; CSA windows overlap with the last one."""

    def __init__(
        self,
        config: DeepseekV4Config,
        *,
        width: int,
        ratio: int,
        rounding: str,
        ops: Ops,
        rope: RotaryEmbedding,
        first_column: int = 0,
    ):
        super().__init__()
        channels = width * (2 if ratio == 4 else 1)
        self.kv_proj = Linear(config.hidden_size, channels)
        self.gate_proj = Linear(config.hidden_size, channels)
        self.kv_norm = Norm(width)
        self.position_bias = mx.zeros((ratio, channels))
        self.columns = (first_column, first_column + 2 * channels)
        self._ops, self._rope, self._ratio = ops, rope, ratio
        self._options = {
            "ratio": ratio,
            "kv_column": first_column,
            "gate_column": first_column + channels,
            "eps": config.rms_norm_eps,
            "rounding": rounding,
        }

    def close(
        self,
        rows: mx.array,
        entries: Entries,
        *,
        origin: int,
        position: int,
        stop: int,
        storage: str,
    ) -> None:
        """Append to `entries` what the tokens of positions [position, stop) complete.

        rows [B, n, C]: raw projections of these tokens and of those before them that are still
        needed, the row of position p at index (p - origin) mod n.
        """
        first, windows = position // self._ratio, stop // self._ratio - position // self._ratio
        if windows == 0:
            return
        cos, sin = self._rope.tables(first * self._ratio, windows, self._ratio)
        entries.append(
            self._ops.compress(
                rows,
                self.position_bias,
                self.kv_norm.weight,
                cos,
                sin,
                origin=origin,
                first_window=first,
                windows=windows,
                storage=storage,
                **self._options,
            )
        )
