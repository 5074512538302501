"""GRPO: answers are better or worse than the others of their group (arXiv:2402.03300, section 4).

The advantage of an answer is its reward against the mean of its group, in standard deviations. The
loss of a batch is the mean over all tokens of all answers, so that a long answer counts as much per
token as a short one:

    -min(r A, clip(r, 1 - low, 1 + high) A) + kl_weight KL(policy || reference)

with r the token's probability now against the one it was drawn with. The KL is the exact one over
the whole vocabulary and not the k3 estimate of the paper: the reference's logits are computed
either way, at this vocabulary they are small, the exact value has no noise, and its gradient is
that of this KL. The gradient of k3 is on average that of the other direction, KL(reference ||
policy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.policy import Policy, entropy, reverse_kl, token_logprobs
from dsv4_mlx.training.rollouts import Sample, SampleBatch, as_batch

# Rewards that differ by less are taken for equal: rounding must not become an advantage.
_LEAST_SPREAD = 1e-6


def group_advantages(rewards: np.ndarray) -> np.ndarray:
    """`(r - mean) / std` within each group: [P, G] -> [P, G] float32; zeros without a spread."""
    given = np.asarray(rewards, np.float64)
    centred = given - given.mean(axis=1, keepdims=True)
    spread = given.std(axis=1, keepdims=True)
    has_spread = spread > _LEAST_SPREAD
    return np.where(has_spread, centred / np.where(has_spread, spread, 1), 0).astype(np.float32)


@dataclass(frozen=True)
class GrpoBatch:
    """Answers with what GRPO knows of their M tokens.

    `advantages` float32 [M]; `reference` float32 [M, V], the logits of the reference policy;
    `tokens` is what the loss is divided by, those of answers that were left out among them.
    """

    answers: SampleBatch
    advantages: np.ndarray
    reference: mx.array
    tokens: int


@dataclass(frozen=True)
class GrpoObjective:
    """The loss of a `GrpoBatch`: what a `Trainer` minimises.

    `low` and `high` bound the ratio to [1 - low, 1 + high]; `kl_weight` is per token; `own_weight`
    is that of the policy's own loss, which no other part of the policy feels.
    """

    policy: Policy
    low: float = 0.2
    high: float = 0.2
    kl_weight: float = 0.02
    own_weight: float = 0.3

    def __call__(
        self, parameters: Parameters, batch: GrpoBatch
    ) -> tuple[mx.array, dict[str, mx.array]]:
        """The loss, and per token: `kl`, `clipped` (share), `entropy`, `ratio` (the largest)."""
        logits, own = self.policy(parameters, batch.answers)
        logprobs = token_logprobs(logits, mx.array(batch.answers.targets))
        ratio = mx.exp(logprobs - mx.array(batch.answers.logprobs))
        advantages = mx.array(batch.advantages)
        surrogate = clipped_surrogate(ratio, advantages, self.low, self.high)
        kl = reverse_kl(logits, batch.reference)
        loss = (self.kl_weight * kl - surrogate).sum() / batch.tokens + self.own_weight * own
        extras = {
            "kl": kl.mean(),
            "clipped": (surrogate < ratio * advantages).astype(mx.float32).mean(),
            "entropy": entropy(logits).mean(),
            "ratio": ratio.max(),
            "own": own,
        }
        return loss, {name: mx.stop_gradient(value) for name, value in extras.items()}


def clipped_surrogate(ratio: mx.array, advantages: mx.array, low: float, high: float) -> mx.array:
    """`min(r A, clip(r, 1 - low, 1 + high) A)`: [M], [M] -> [M].

    A token that is already likelier by `high` gains no more from a good answer, one that is rarer
    by `low` loses no more from a bad one; the way back is never cut.
    """
    return mx.minimum(ratio * advantages, mx.clip(ratio, 1 - low, 1 + high) * advantages)


def informative(advantages: np.ndarray) -> np.ndarray:
    """Which groups have a spread: [P, G] -> bool [P]; the first where none has.

    Answers of the others would move the policy by their KL alone, at the full price of a step.
    """
    found: np.ndarray = np.abs(advantages).max(axis=1) > 0
    if not found.any():
        found[0] = True
    return found


def chosen_answers(
    groups: Sequence[Sequence[Sample]], advantages: np.ndarray, pad_to: int = 1
) -> tuple[SampleBatch, np.ndarray, int]:
    """Answers of the informative groups as a batch, the advantage of each of their M tokens
    float32 [M], and how many tokens all groups have together."""
    kept = informative(advantages)
    samples = [one for group, keep in zip(groups, kept, strict=True) if keep for one in group]
    batch = as_batch(samples, pad_to)
    per_row = advantages[kept].ravel()
    total = sum(len(one.tokens) for group in groups for one in group)
    return batch, per_row[batch.rows], total
