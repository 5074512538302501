"""Muon, as DeepSeek-V4 uses it, beside AdamW for what is no matrix (paper §2.4).

Muon makes the momentum of every matrix orthogonal before it is applied, so that each direction
moves by the same amount. Parameters are flat dictionaries by name; both optimizers return new
arrays and keep their state in plain dictionaries, which makes a checkpoint one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt

import mlx.core as mx

Parameters = dict[str, mx.array]

# Eight steps that push every singular value towards one, then two that settle it there.
NEWTON_SCHULZ_STEPS = ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2

# From this many times wider than high, steps run on the Gram matrix, some at a time.
_WIDE = 4
_STEPS_PER_GRAM = 4


def newton_schulz(matrices: mx.array) -> mx.array:
    """The nearest (semi-)orthogonal matrix of each [..., n, m], float32; zero stays zero.

    `X <- a X + b (X X^T) X + c (X X^T)^2 X`, ten times, from `M / ||M||_F`.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.swapaxes(-1, -2) if tall else matrices  # X X^T then has the smaller size
    norm = mx.sqrt(mx.square(x).sum(axis=(-2, -1), keepdims=True))
    x = x / mx.maximum(norm, 1e-30)
    if x.shape[-1] >= _WIDE * x.shape[-2]:
        for start in range(0, len(NEWTON_SCHULZ_STEPS), _STEPS_PER_GRAM):
            x = _polynomial(x, NEWTON_SCHULZ_STEPS[start : start + _STEPS_PER_GRAM]) @ x
    else:
        for a, b, c in NEWTON_SCHULZ_STEPS:
            gram = x @ x.swapaxes(-1, -2)
            x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.swapaxes(-1, -2) if tall else x


def _polynomial(x: mx.array, steps: Sequence[tuple[float, float, float]]) -> mx.array:
    """What some steps multiply wide x by, from its Gram matrix alone: [..., n, m] -> [..., n, n].

    A step multiplies by `P = a I + b G + c G^2`, and G becomes `P G P`: all of size n. What
    float32 leaves of a singular value in G is its square's share, so that only a few steps go by
    before G is made anew.
    """
    gram, identity = x @ x.swapaxes(-1, -2), mx.eye(x.shape[-2])
    product = identity
    for number, (a, b, c) in enumerate(steps):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product if number else factor
        if number + 1 < len(steps):
            gram = factor @ gram @ factor
    return product


def update_scale(rows: int, columns: int, gamma: float) -> float:
    """`sqrt(max(n, m)) gamma`: gives an orthogonal matrix entries of RMS gamma, as AdamW's."""
    return sqrt(max(rows, columns)) * gamma


@dataclass
class Muon:
    """`W <- W (1 - lr decay) - lr O`, O the orthogonalised Nesterov momentum of the gradient.

    `matrices(name, array)` shows a parameter as the stack [count, n, m] of its logically
    independent matrices: experts one by one, gate and up apart.
    """

    matrices: Callable[[str, mx.array], mx.array]
    momentum: float = 0.95
    weight_decay: float = 0.1
    gamma: float = 0.18
    state: Parameters = field(default_factory=dict)

    def update(self, parameters: Parameters, gradients: Parameters, lr: float) -> Parameters:
        """New parameters; equal shapes are orthogonalised together."""
        by_shape: dict[tuple[int, ...], list[tuple[str, mx.array]]] = {}
        for name, gradient in gradients.items():
            velocity = self.state.get(name, mx.zeros_like(gradient)) * self.momentum + gradient
            self.state[name] = velocity
            stack = self.matrices(name, self.momentum * velocity + gradient)
            by_shape.setdefault(stack.shape[1:], []).append((name, stack))
        directions = {}
        for shape, members in by_shape.items():
            stack = mx.concatenate([matrix for _, matrix in members])
            stack = newton_schulz(stack) * update_scale(shape[0], shape[1], self.gamma)
            start = 0
            for name, matrix in members:
                directions[name] = stack[start : start + len(matrix)]
                start += len(matrix)
        keep = 1 - lr * self.weight_decay
        return {
            name: parameters[name] * keep - lr * direction.reshape(parameters[name].shape)
            for name, direction in directions.items()
        }


@dataclass
class AdamW:
    """Adam with decoupled weight decay, for embeddings, the head, norms, biases and gates."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-20
    weight_decay: float = 0.1
    state: Parameters = field(default_factory=dict)
    steps: int = 0

    def update(self, parameters: Parameters, gradients: Parameters, lr: float) -> Parameters:
        self.steps += 1
        return {name: self._one(name, parameters[name], g, lr) for name, g in gradients.items()}

    def _one(self, name: str, parameter: mx.array, gradient: mx.array, lr: float) -> mx.array:
        first, second = self.betas
        zeros = mx.zeros_like(gradient)
        mean = first * self.state.get(f"{name}.mean", zeros) + (1 - first) * gradient
        square = second * self.state.get(f"{name}.square", zeros) + (1 - second) * gradient**2
        self.state[f"{name}.mean"], self.state[f"{name}.square"] = mean, square
        mean = mean / (1 - first**self.steps)
        square = square / (1 - second**self.steps)
        # eps 1e-20 is below float32's smallest square root: a zero gradient must not give 0 / 0.
        step = mean / mx.maximum(mx.sqrt(square), self.eps)
        return parameter * (1 - lr * self.weight_decay) - lr * step
