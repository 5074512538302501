"""The routed experts as training computes them: rows in the order of their experts, none dropped.

Every expert multiplies exactly the rows it was given, however many, so nothing is padded and no
token falls out. The backward pass is written by hand: permutations are undone by permutations, and
an expert's gradient is one product, where automatic ones scatter into zeros of the whole size.
"""

from __future__ import annotations

from typing import Any, cast

import mlx.core as mx

from dsv4_mlx.model.experts import Experts
from dsv4_mlx.model.layers import expert_bounds
from dsv4_mlx.model.matmul import Bounds


class TrainedExperts(Experts):
    """The model's experts, same parameters, same outputs but for the order of sums."""

    @classmethod
    def take_over(cls, experts: Experts) -> TrainedExperts:
        """The same layer, parameters and all, computing as training does."""
        experts.__class__ = cls
        assert isinstance(experts, TrainedExperts)
        return experts

    def __call__(
        self, x: mx.array, experts: mx.array, weights: mx.array, shared: mx.array
    ) -> tuple[mx.array, mx.array]:
        """As the model's: x [M, D], experts and weights [M, k] -> [M, k, D], [M, Is]."""
        M, k = experts.shape
        order, bounds = expert_bounds(experts.reshape(-1))
        place = mx.argsort(order)
        rows = spread(x, order, place, k)
        gate_up = by_segments(rows, self.gate_up_proj.weight, bounds)
        weights = permuted(weights.reshape(-1), order, place)
        activated, shared = self.activate(gate_up, weights, shared)
        outputs = by_segments(activated, self.down_proj.weight, bounds)
        return permuted(outputs, place, order).reshape(M, k, -1), shared


def by_segments(x: mx.array, matrices: mx.array, bounds: Bounds) -> mx.array:
    """Rows of x [R, in] sorted by expert times matrices [E, out, in] -> [R, out].

    `bounds` are (expert, start, stop) of every expert that has rows, in the order of the rows.
    """

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(x: mx.array, matrices: mx.array) -> mx.array:
        return mx.concatenate([x[a:b] @ matrices[e].T for e, a, b in bounds])

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(given: Any, cotangent: mx.array, _: Any) -> list[mx.array]:
        x, matrices = given
        of_x = mx.concatenate([cotangent[a:b] @ matrices[e] for e, a, b in bounds])
        found = {e: cotangent[a:b].T @ x[a:b] for e, a, b in bounds}
        nothing = mx.zeros(matrices.shape[1:])
        of_matrices = mx.stack([found.get(e, nothing) for e in range(matrices.shape[0])])
        return [of_x, of_matrices]

    return cast(mx.array, core(x, matrices))


def spread(x: mx.array, order: mx.array, place: mx.array, k: int) -> mx.array:
    """Row `order[r] // k` of x [M, D] at r: [M k, D]; `place` is the inverse of `order`."""

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(x: mx.array) -> mx.array:
        return x[order // k]

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(x: mx.array, cotangent: mx.array, _: Any) -> mx.array:
        return cotangent[place].reshape(-1, k, cotangent.shape[-1]).sum(axis=1)

    return cast(mx.array, core(x))


def permuted(x: mx.array, order: mx.array, inverse: mx.array) -> mx.array:
    """`x[order]`, whose gradient is a permutation too."""

    @mx.custom_function  # type: ignore[untyped-decorator]
    def core(x: mx.array) -> mx.array:
        return x[order]

    @core.vjp  # type: ignore[untyped-decorator]
    def backward(x: mx.array, cotangent: mx.array, _: Any) -> mx.array:
        return cotangent[inverse]

    return cast(mx.array, core(x))
