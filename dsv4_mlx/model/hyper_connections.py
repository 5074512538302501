"""Manifold-constrained hyper-connections: N residual streams around every sublayer (paper §2.2)."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops


class HyperConnection(nn.Module):
    """The mixing of one sublayer: `collapse` before it, `expand` after it."""

    def __init__(self, config: DeepseekV4Config, numerics: Numerics, ops: Ops):
        super().__init__()
        N = config.hc_mult
        mixes = (2 + N) * N
        self.fn = mx.zeros((mixes, N * config.hidden_size))
        self.base = mx.zeros((mixes,))
        self.scale = mx.zeros((3,))
        self._ops = ops
        self._options: dict[str, Any] = {
            "iters": config.hc_sinkhorn_iters,
            "hc_eps": config.hc_eps,
            "norm_eps": config.rms_norm_eps,
            "official": numerics is Numerics.OFFICIAL,
        }

    def collapse(
        self, streams: mx.array, norm_weight: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """[B, S, N, D] -> normed sublayer input [B, S, D], post [B, S, N], comb [B, S, N, N]."""
        return self._ops.hc_pre(
            streams, self.fn, self.base, self.scale, norm_weight, **self._options
        )

    def expand(
        self,
        y: mx.array,
        streams: mx.array,
        post: mx.array,
        comb: mx.array,
        routed: mx.array | None = None,
    ) -> mx.array:
        """Sublayer output [B, S, D] and the streams before it -> streams after it.

        The output of experts comes in parts: y of the shared one, `routed` [B, S, k, D].
        """
        return self._ops.hc_post(y, streams, post, comb, routed, official=self._options["official"])

    def expand_and_collapse(
        self,
        y: mx.array,
        streams: mx.array,
        post: mx.array,
        comb: mx.array,
        norm_weight: mx.array,
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """The sublayer before ends, this one begins: streams, then what `collapse` gives of them.

        post and comb [B, S, N, N] are those of the sublayer before.
        """
        fn, base, scale = self["fn"], self["base"], self["scale"]  # not through __getattr__
        return self._ops.hc_post_pre(
            y, streams, post, comb, fn, base, scale, norm_weight, **self._options
        )


class HyperHead(nn.Module):
    """One weighted sum of the streams, then the final norm: [B, S, N, D] -> [B, S, D]."""

    def __init__(self, config: DeepseekV4Config, numerics: Numerics, ops: Ops):
        super().__init__()
        N = config.hc_mult
        self.hc_fn = mx.zeros((N, N * config.hidden_size))
        self.hc_base = mx.zeros((N,))
        self.hc_scale = mx.zeros((1,))
        self._ops = ops
        self._options: dict[str, Any] = {
            "hc_eps": config.hc_eps,
            "norm_eps": config.rms_norm_eps,
            "official": numerics is Numerics.OFFICIAL,
        }

    def __call__(self, streams: mx.array, norm_weight: mx.array) -> mx.array:
        return self._ops.hc_head(
            streams, self.hc_fn, self.hc_base, self.hc_scale, norm_weight, **self._options
        )
