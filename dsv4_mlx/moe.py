"""Mixture of experts: score or hash routing, clamped experts, one shared expert (paper §2.1)."""

from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx import matmul
from dsv4_mlx.config import DeepseekV4Config
from dsv4_mlx.layers import ExpertsLinear, Linear, expert_bounds
from dsv4_mlx.numerics import Numerics

# Rows per call above which the CPU sorts them by expert and multiplies expert by expert.
_SORTED_ROWS = 32


class TopKRouter(nn.Module):
    """Experts by biased score; weights from the unbiased one."""

    def __init__(self, config: DeepseekV4Config, ops: SimpleNamespace):
        super().__init__()
        self.weight = mx.zeros((config.n_routed_experts, config.hidden_size))
        self.e_score_correction_bias = mx.zeros((config.n_routed_experts,))
        # Load balancing moves the bias, gradients do not.
        self.freeze(keys=["e_score_correction_bias"])
        self._ops, self._k = ops, config.num_experts_per_tok
        self._scaling = config.routed_scaling_factor

    def __call__(self, x: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """x [M, D] -> experts [M, k] int32, weights [M, k] float32."""
        return self._ops.router(
            x, self.weight, self.e_score_correction_bias, k=self._k, scaling=self._scaling
        )


class HashRouter(nn.Module):
    """Experts by token id, from the checkpoint's table; weights from the scores."""

    def __init__(self, config: DeepseekV4Config, ops: SimpleNamespace):
        super().__init__()
        self.weight = mx.zeros((config.n_routed_experts, config.hidden_size))
        self.tid2eid = mx.zeros((config.vocab_size, config.num_experts_per_tok), mx.int32)
        self.freeze(keys=["tid2eid"])
        self._ops, self._scaling = ops, config.routed_scaling_factor

    def __call__(self, x: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """x [M, D], tokens [M] -> experts [M, k] int32, weights [M, k] float32."""
        return self._ops.hash_router(x, self.weight, self.tid2eid, tokens, scaling=self._scaling)


class Experts(nn.Module):
    """The routed experts, gate and up stacked as one matrix per expert."""

    def __init__(self, config: DeepseekV4Config, ops: SimpleNamespace):
        super().__init__()
        E, D, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = ExpertsLinear(E, D, 2 * width)
        self.down_proj = ExpertsLinear(E, width, D)
        self._ops, self._limit = ops, config.swiglu_limit

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """x [M, D], experts and weights [M, k] -> weighted outputs [M, k, D] float32."""
        M, k = experts.shape
        if matmul.on_cpu() and M * k > _SORTED_ROWS:
            return self._sorted(x, experts, weights)
        rows = mx.arange(M * k, dtype=mx.uint32)
        chosen = experts.reshape(-1).astype(mx.uint32)
        gate_up = self.gate_up_proj.gathered(x, rows // k, chosen)
        activated = self._ops.swiglu(gate_up, weights.reshape(-1), limit=self._limit)
        return self.down_proj.gathered(activated, rows, chosen).reshape(M, k, -1)

    def _sorted(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        M, k = experts.shape
        order, bounds = expert_bounds(experts.reshape(-1))
        gate_up = self.gate_up_proj.sorted(x[order // k], bounds)
        activated = self._ops.swiglu(gate_up, weights.reshape(-1)[order], limit=self._limit)
        outputs = self.down_proj.sorted(activated, bounds)
        return outputs[mx.argsort(order)].reshape(M, k, -1)


class SharedExpert(nn.Module):
    """The expert every token visits; clamped like the routed ones."""

    def __init__(self, config: DeepseekV4Config, ops: SimpleNamespace):
        super().__init__()
        D, width = config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        self.gate_proj = Linear(D, width)
        self.up_proj = Linear(D, width)
        self.down_proj = Linear(width, D)
        self._ops, self._limit = ops, config.swiglu_limit

    def __call__(self, x: mx.array) -> mx.array:
        """[M, D] -> [M, D] float32."""
        gate_up = mx.concatenate([self.gate_proj(x), self.up_proj(x)], axis=-1)
        return self.down_proj(self._ops.swiglu(gate_up, limit=self._limit))


class MoE(nn.Module):
    """Router, routed experts and the shared expert of one layer."""

    def __init__(
        self, config: DeepseekV4Config, numerics: Numerics, ops: SimpleNamespace, *, hashed: bool
    ):
        super().__init__()
        self.gate = (HashRouter if hashed else TopKRouter)(config, ops)
        self.experts = Experts(config, ops)
        self.shared_experts = SharedExpert(config, ops)
        self._ops, self._official = ops, numerics is Numerics.OFFICIAL

    def __call__(self, x: mx.array, tokens: mx.array) -> mx.array:
        """Normed input [B, S, D], token ids [B, S] -> [B, S, D] float32."""
        flat = x.reshape(-1, x.shape[-1])
        experts, weights = self.gate(flat, tokens.reshape(-1))
        routed = self.experts(flat, experts, weights)
        total = self._ops.expert_sum(routed, self.shared_experts(flat), official=self._official)
        return total.reshape(x.shape)
