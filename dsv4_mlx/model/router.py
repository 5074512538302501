"""Routing: which experts a token visits, by score or from a table (paper §2.1)."""

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops


class TopKRouter(nn.Module):
    """Experts by biased score; weights from the unbiased one."""

    def __init__(self, config: DeepseekV4Config, ops: Ops):
        super().__init__()
        self.weight = mx.zeros((config.n_routed_experts, config.hidden_size))
        self.e_score_correction_bias = mx.zeros((config.n_routed_experts,))
        # Load balancing moves the bias, gradients do not.
        self.freeze(keys=["e_score_correction_bias"])
        self._ops, self._k = ops, config.num_experts_per_tok
        self._scaling = config.routed_scaling_factor

    def __call__(self, x: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """x [M, D] -> experts [M, k] uint32, weights [M, k] float32."""
        return self._ops.router(
            x, self.weight, self.e_score_correction_bias, k=self._k, scaling=self._scaling
        )


class HashRouter(nn.Module):
    """Experts by token id, from the checkpoint's table; weights from the scores."""

    def __init__(self, config: DeepseekV4Config, ops: Ops):
        super().__init__()
        self.weight = mx.zeros((config.n_routed_experts, config.hidden_size))
        self.tid2eid = mx.zeros((config.vocab_size, config.num_experts_per_tok), mx.int32)
        self.freeze(keys=["tid2eid"])
        self._ops, self._scaling = ops, config.routed_scaling_factor

    def __call__(self, x: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """x [M, D], tokens [M] -> experts [M, k] uint32, weights [M, k] float32."""
        return self._ops.hash_router(x, self.weight, self.tid2eid, tokens, scaling=self._scaling)
