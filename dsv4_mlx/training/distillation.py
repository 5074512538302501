"""On-policy distillation: a student learns from its teachers on its own answers.

The student draws answers to prompts of several domains; in each domain another teacher says, for
every token of the answer, how it would have gone on. What is minimised is the reverse KL divergence
over the whole vocabulary, the mean over the tokens of all answers (DeepSeek-V4 report, section on
post-training: it takes the place of a joint reinforcement learning of all domains).

The answers are the student's own, so it is corrected where it goes, mistakes included. Which tokens
were drawn has no gradient: every prefix is taken as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from dsv4_mlx.training.muon import Parameters
from dsv4_mlx.training.policy import Policy, V4Policy, entropy, reverse_kl
from dsv4_mlx.training.rollouts import SampleBatch


@dataclass(frozen=True)
class DistillationBatch:
    """Answers of the student and what the teachers say of their M tokens: logits [M, V]."""

    answers: SampleBatch
    teacher_logits: mx.array


@dataclass(frozen=True)
class DistillationObjective:
    """The mean reverse KL of a `DistillationBatch`: what a `Trainer` minimises."""

    policy: Policy
    own_weight: float = 0.3

    def __call__(
        self, parameters: Parameters, batch: DistillationBatch
    ) -> tuple[mx.array, dict[str, mx.array]]:
        """The loss; `kl` [M] of every token, `entropy` and the policy's own loss beside it."""
        logits, own = self.policy(parameters, batch.answers)
        kl = reverse_kl(logits, batch.teacher_logits)
        extras = {"kl": kl, "entropy": entropy(logits).mean(), "own": own}
        return kl.mean() + self.own_weight * own, {
            name: mx.stop_gradient(value) for name, value in extras.items()
        }


def taught(
    policy: V4Policy, answers: SampleBatch, teachers: Sequence[tuple[Parameters, int]]
) -> DistillationBatch:
    """The batch with the teachers' logits: each teaches as many rows as is said beside it.

    The rows of `answers` are in the order of the teachers.
    """
    parts, start = [], 0
    for parameters, rows in teachers:
        part = answers.part(start, start + rows)
        if rows:
            parts.append(policy.logits(parameters, part))
        start += rows
    return DistillationBatch(answers, mx.concatenate(parts))
