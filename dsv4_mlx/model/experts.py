"""The experts' products: few rows each by itself, many rows in the order of their experts."""

import mlx.core as mx
import mlx.nn as nn

from dsv4_mlx.model import matmul, own_products
from dsv4_mlx.model.expert_rows import takes_blocks
from dsv4_mlx.model.layers import ExpertsLinear, Joined, LayerOwner, Linear, expert_bounds
from dsv4_mlx.model.packed import Packing
from dsv4_mlx.release.config import DeepseekV4Config
from metal_kernels.ops import Ops

# Rows per call above which the CPU sorts them by expert and multiplies expert by expert.
_SORTED_ROWS = 32
# The same on a GPU, where MLX has a product for rows in the order of their experts.
_GPU_SORTED_ROWS = 64
_MXFP4 = Packing(32, 4, "mxfp4")


class Experts(nn.Module):
    """The routed experts, gate and up stacked as one matrix per expert."""

    def __init__(self, config: DeepseekV4Config, ops: Ops):
        super().__init__()
        E, D, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = ExpertsLinear(E, D, 2 * width)
        self.down_proj = ExpertsLinear(E, width, D)
        self._ops, self._limit, self.count = ops, config.swiglu_limit, E

    def __call__(
        self, x: mx.array, experts: mx.array, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        """x [M, D], experts uint32 and weights [M, k] -> weighted outputs [M, k, D].

        The shared expert's gate and up, `shared` [M, 2 Is], are activated in the same launch; the
        second output [M, Is] is what they become.
        """
        M, k = experts.shape
        if matmul.on_cpu(self._ops):
            many = M * k > _SORTED_ROWS
            return (self._sorted if many else self._gathered)(x, experts, weights, shared)
        if M * k >= _GPU_SORTED_ROWS and not own_products.serve(M, self._ops):
            return self._sorted_on_gpu(x, experts, weights, shared, self.takes_blocks(M, k))
        gate_up = self.gate_up_proj.chosen(x.reshape(M, 1, -1), experts)
        activated, shared = self.activate(gate_up.reshape(M * k, -1), weights, shared)
        return self.down_proj.chosen(activated.reshape(M, k, -1), experts), shared

    def activate(
        self, gate_up: mx.array, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        """gate_up [R, 2 I], weights [...] of R numbers, shared [M, 2 Is] -> [R, I] and [M, Is]."""
        activated, shared = self._ops.swiglu(
            gate_up, weights.reshape(-1), shared, limit=self._limit
        )
        return activated, shared

    @property
    def on_cpu(self) -> bool:
        """Whether products run on the CPU."""
        return matmul.on_cpu(self._ops)

    @property
    def most_unsorted(self) -> int:
        """Pairs of a token and an expert up to which a call leaves them in their order."""
        return _SORTED_ROWS if matmul.on_cpu(self._ops) else _GPU_SORTED_ROWS - 1

    def _gathered(
        self, x: mx.array, experts: mx.array, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        M, k = experts.shape
        rows, chosen = mx.arange(M * k, dtype=mx.uint32), experts.reshape(-1)
        gate_up = self.gate_up_proj.gathered(x, rows // k, chosen)
        activated, shared = self.activate(gate_up, weights, shared)
        return self.down_proj.gathered(activated, rows, chosen).reshape(M, k, -1), shared

    def takes_blocks(self, M: int, k: int) -> bool:
        """Whether M tokens are multiplied by blocks of one expert, for which MXFP4 has a kernel."""
        is_mxfp4 = all(one.packing == _MXFP4 for one in (self.gate_up_proj, self.down_proj))
        return is_mxfp4 and takes_blocks(M, k, self.count)

    def _sorted_on_gpu(
        self,
        x: mx.array,
        experts: mx.array,
        weights: mx.array,
        shared: mx.array,
        by_blocks: bool,
    ) -> tuple[mx.array, mx.array]:
        """Rows in the order of their experts, multiplied expert by expert: by blocks that have one,
        or by MLX's tiles."""
        M, k = experts.shape
        order = mx.argsort(experts.reshape(-1))
        chosen = experts.reshape(-1)[order]
        if by_blocks:
            gate_up = self.gate_up_proj.by_blocks(x, chosen, order // k)
        else:
            gate_up = self.gate_up_proj.in_order(x[order // k], chosen)
        activated, shared = self.activate(gate_up, weights.reshape(-1)[order], shared)
        down = self.down_proj
        outputs = (
            down.by_blocks(activated, chosen) if by_blocks else down.in_order(activated, chosen)
        )
        return outputs[mx.argsort(order)].reshape(M, k, -1), shared

    def _sorted(
        self, x: mx.array, experts: mx.array, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        M, k = experts.shape
        order, bounds = expert_bounds(experts.reshape(-1))
        gate_up = self.gate_up_proj.sorted(x[order // k], bounds)
        activated, shared = self.activate(gate_up, weights.reshape(-1)[order], shared)
        outputs = self.down_proj.sorted(activated, bounds)
        return outputs[mx.argsort(order)].reshape(M, k, -1), shared


class SharedExpert(LayerOwner):
    """The expert every token visits; clamped like the routed ones, and activated beside them."""

    def __init__(self, config: DeepseekV4Config):
        super().__init__()
        D, width = config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        self.gate_proj = Linear(D, width)
        self.up_proj = Linear(D, width)
        self.down_proj = Linear(width, D)
        self.joined = Joined(lambda: (self.gate_proj, self.up_proj))

    def gate_up(self, x: mx.array) -> mx.array:
        """[M, D] -> [M, 2 Is], gate first."""
        return self.joined(x)
