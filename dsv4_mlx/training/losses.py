"""What training minimises: the next token, the token after it (MTP), and balanced experts."""

from __future__ import annotations

import mlx.core as mx

from dsv4_mlx.training import native, native_rows


def cross_entropy(logits: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Weighted mean of -log p(target): [B, S, V], [B, S], [B, S] -> scalar, float32."""
    library = native.on_cpu()
    if library is not None:
        return native_rows.cross_entropy(library, logits, targets, weights)
    log_sum = mx.logsumexp(logits, axis=-1)
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return ((log_sum - chosen) * weights).sum() / mx.maximum(weights.sum(), 1.0)


def load_fractions(experts: mx.array, count: int) -> mx.array:
    """Share of the chosen places that each expert got: int [M, k] -> [E], sums to one."""
    load = (experts.reshape(-1, 1) == mx.arange(count)).sum(axis=0)
    return load.astype(mx.float32) / experts.size


def balance_loss(scores: mx.array, load: mx.array) -> mx.array:
    """`E sum_e f_e P_e`: one where load f and mean score share P are even, more where not.

    scores [M, E] (before the choice), load [E], see `load_fractions`. The gradient goes through P
    alone.
    """
    share = (scores / scores.sum(axis=-1, keepdims=True)).mean(axis=0)
    return scores.shape[-1] * (load * share).sum()


def corrected_bias(bias: mx.array, load: mx.array, speed: float = 0.001) -> mx.array:
    """The router's bias after a step: up for experts below the mean load, down above it."""
    return bias + speed * mx.sign(load.mean() - load)
