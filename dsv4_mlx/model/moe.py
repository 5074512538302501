"""Mixture of experts: router, clamped experts, and one shared expert (paper §2.1)."""

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.model.experts import Experts, SharedExpert
from dsv4_mlx.model.numerics import Numerics
from dsv4_mlx.model.router import HashRouter, TopKRouter
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops


class MoE(nn.Module):
    """Router, routed experts and the shared expert of one layer."""

    def __init__(self, config: DeepseekV4Config, numerics: Numerics, ops: Ops, *, hashed: bool):
        super().__init__()
        self.gate = (HashRouter if hashed else TopKRouter)(config, ops)
        self.experts = Experts(config, ops)
        self.shared_experts = SharedExpert(config)
        self._ops, self._official = ops, numerics is Numerics.OFFICIAL

    def __call__(self, x: mx.array, tokens: mx.array) -> mx.array:
        """Normed input [B, S, D], token ids [B, S] -> [B, S, D] float32."""
        shared, routed = self.parts(x, tokens)
        D = x.shape[-1]
        total = self._ops.expert_sum(
            routed.reshape(-1, routed.shape[-2], D),
            shared.reshape(-1, D),
            official=self._official,
        )
        return total.reshape(x.shape)

    def parts(self, x: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """What the sum is made of: the shared expert's [B, S, D], the routed ones' [B, S, k, D]."""
        flat = x.reshape(-1, x.shape[-1])
        experts, weights = self.gate(flat, tokens.reshape(-1))
        gate_up = self.shared_experts.gate_up(flat)
        routed, activated = self.experts(flat, experts, weights, gate_up)
        shared = self.shared_experts.down_proj(activated)
        return shared.reshape(x.shape), routed.reshape(*x.shape[:-1], *routed.shape[1:])
