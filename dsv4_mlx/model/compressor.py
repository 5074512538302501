"""Compressors: every R tokens become one entry (paper §2.3.1 for CSA, §2.3.2 for HCA).

The projections of a token wait as raw rows until their window closes; see `compress` for the
pooling. Several compressors of one layer share the rows, each reading columns of its own.
"""

from typing import Any

import mlx.core as mx

from dsv4_mlx.cache.entries import Entries
from dsv4_mlx.cache.moving import Moving
from dsv4_mlx.model.layers import LayerOwner, Linear, Norm
from dsv4_mlx.model.rope import RotaryEmbedding
from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_roles import LayerRole
from metal_kernels.ops import Ops
from metal_kernels.shared.rows import RowStorage


class Compressor(LayerOwner):
    """Pools token latents of `width` channels by the ratio of a role.

    `columns` are those of a raw row that it reads, its values first and then its scores.
    """

    def __init__(
        self,
        config: DeepseekV4Config,
        role: LayerRole,
        *,
        width: int,
        rounding: str,
        ops: Ops,
        rope: RotaryEmbedding,
        first_column: int = 0,
    ):
        super().__init__()
        channels = width * role.spanned
        self.kv_proj = Linear(config.hidden_size, channels)
        self.gate_proj = Linear(config.hidden_size, channels)
        self.kv_norm = Norm(width)
        self.position_bias = mx.zeros((role.ratio, channels))
        self.ratio = role.ratio
        self.columns = slice(first_column, first_column + 2 * channels)
        self._ops, self._rope = ops, rope
        self._options: dict[str, Any] = {
            "ratio": role.ratio,
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
        storage: RowStorage,
        moving: Moving | None = None,
    ) -> None:
        """Append to `entries` what the tokens of positions [position, stop) complete.

        rows [B, n, C]: raw rows of these tokens and of those before them that are still needed, the
        row of position p at index (p - origin) mod n.
        """
        first, windows = position // self.ratio, stop // self.ratio - position // self.ratio
        if windows == 0:
            return
        cos, sin = self._rope.of(moving, first * self.ratio, windows, self.ratio)
        entries.append(
            self._ops.compress(
                rows,
                self.position_bias,
                self.kv_norm.weight,
                cos,
                sin,
                origin=origin,
                first_window=first if moving is None else moving.windows[self.ratio].reshape(()),
                windows=windows,
                storage=storage,
                **self._options,
            )
        )
