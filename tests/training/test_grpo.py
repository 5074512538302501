"""GRPO against float64, and what advantages, clipping and the KL do to a policy that is a table."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.training.grpo import (
    GrpoBatch,
    GrpoObjective,
    chosen_answers,
    clipped_surrogate,
    group_advantages,
)
from dsv4_mlx.training.rollouts import as_batch
from dsv4_mlx.training.trainer import Schedule, Trainer
from tests.training.tabular import TABLE, answer, probabilities, tabular, told

V = 5
RNG = np.random.default_rng(11)
DRAWN_FROM = RNG.normal(size=(V, V))
NOW = DRAWN_FROM + 0.8 * RNG.normal(size=(V, V))  # some ratios leave the bounds, some do not
REFERENCE = RNG.normal(size=(V, V))
ANSWERS = [(0, (1, 2, 3)), (0, (4,)), (2, (0, 0)), (2, (3, 1, 1))]
ADVANTAGES = np.array([1.0, -1.0, 1.5, -0.5])
LOW, HIGH, KL_WEIGHT = 0.2, 0.3, 0.1


def loss_in_float64(table: np.ndarray) -> tuple[float, float, float]:
    """The loss as the docstring of the module has it, token by token; mean KL, clipped share."""
    now, old, reference = (probabilities(t) for t in (table, DRAWN_FROM, REFERENCE))
    total, kls, clipped = 0.0, [], []
    for (prompt, tokens), advantage in zip(ANSWERS, ADVANTAGES, strict=True):
        for before, token in zip((prompt, *tokens), tokens, strict=False):
            ratio = now[before, token] / old[before, token]
            bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
            kl = sum(p * np.log(p / q) for p, q in zip(now[before], reference[before], strict=True))
            total += KL_WEIGHT * kl - min(ratio * advantage, bounded * advantage)
            kls.append(kl)
            clipped.append(bounded * advantage < ratio * advantage)
    return total / len(kls), float(np.mean(kls)), float(np.mean(clipped))


def batch_of(samples, advantages, reference: np.ndarray) -> GrpoBatch:
    """A batch whose tokens have the advantages of their rows."""
    answers = as_batch(samples)
    before = answers.tokens[:, :-1].ravel()[answers.places]
    logits = mx.array(reference.astype(np.float32))[mx.array(before)]
    per_token = np.asarray(advantages, np.float32)[answers.rows]
    return GrpoBatch(answers, per_token, logits, len(answers.places))


def parameters(table: np.ndarray) -> dict[str, mx.array]:
    return {TABLE: mx.array(table.astype(np.float32))}


def test_loss_and_gradient_are_those_of_float64():
    samples = [told(DRAWN_FROM, *one) for one in ANSWERS]
    batch = batch_of(samples, ADVANTAGES, REFERENCE)
    objective = GrpoObjective(tabular, LOW, HIGH, KL_WEIGHT)
    (loss, extras), gradient = mx.value_and_grad(objective)(parameters(NOW), batch)
    expected, kl, clipped = loss_in_float64(NOW)
    assert 0 < clipped < 1  # the case has both
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert extras["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert extras["clipped"].item() == pytest.approx(clipped)
    np.testing.assert_allclose(np.array(gradient[TABLE]), differences(NOW), rtol=1e-3, atol=1e-5)


def differences(table: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of `loss_in_float64` by central differences."""
    found = np.zeros_like(table)
    for place in np.ndindex(table.shape):
        moved = np.zeros_like(table)
        moved[place] = step
        found[place] = loss_in_float64(table + moved)[0] - loss_in_float64(table - moved)[0]
    return found / (2 * step)


def test_advantages_are_rewards_in_deviations_of_their_group():
    found = group_advantages(np.array([[1, 0, 0, 1], [1, 0, 0, 0], [0.1, 0.1, 0.1, 0.1]]))
    third = 3**0.5
    expected = [[1, -1, -1, 1], [third, -1 / third, -1 / third, -1 / third], [0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_groups_without_a_spread_are_left_out_but_their_tokens_count():
    groups = [
        [told(NOW, 0, (1, 2)), told(NOW, 0, (3,))],
        [told(NOW, 1, (4, 4)), told(NOW, 1, (2,))],
    ]
    answers, advantages, tokens = chosen_answers(groups, np.array([[0.0, 0.0], [1.0, -1.0]]))
    assert answers.targets.tolist() == [4, 4, 2]
    assert advantages.tolist() == [1, 1, -1]
    assert tokens == 6
    # Where no group has one, the KL of the first is left.
    answers, advantages, tokens = chosen_answers(groups, np.zeros((2, 2)))
    assert answers.targets.tolist() == [1, 2, 3] and not advantages.any()
    assert tokens == 6


def test_clipping_ends_what_was_gained_and_never_the_way_back():
    """d/d ratio of the surrogate, by hand: A where it counts, 0 where it is clipped."""
    ratio = mx.array([1.0, 1.5, 1.5, 0.5, 0.5])
    advantages = mx.array([1.0, 1.0, -1.0, 1.0, -1.0])
    value = clipped_surrogate(ratio, advantages, 0.2, 0.3)
    np.testing.assert_allclose(np.array(value), [1.0, 1.3, -1.5, 0.5, -0.8], rtol=1e-6)
    slope = mx.grad(lambda r: clipped_surrogate(r, advantages, 0.2, 0.3).sum())(ratio)
    assert np.array(slope)[1:].tolist() == [0, -1, 1, 0]


def trained(kl_weight: float, updates: int) -> tuple[list[float], np.ndarray]:
    """The exact chance of a reward before every update and at the end, and the table.

    The reward is one where the second of two tokens is 3.
    """
    rng, start = np.random.default_rng(3), np.zeros((V, V))
    trainer = Trainer(
        parameters(start),
        GrpoObjective(tabular, kl_weight=kl_weight),
        Schedule(updates, 0.5, warmup=1, plateau=1.0),
        matrices=lambda _, array: array[None],
    )
    chances = []
    for _ in range(updates):
        table = np.array(trainer.parameters[TABLE], np.float64)
        chances.append(chance(table))
        groups = [[answer(table, prompt, 2, rng) for _ in range(8)] for prompt in (0, 1)]
        rewards = np.array([[float(one.tokens[1] == 3) for one in group] for group in groups])
        answers, advantages, tokens = chosen_answers(groups, group_advantages(rewards))
        before = answers.tokens[:, :-1].ravel()[answers.places]
        logits = mx.zeros((len(before), V))
        trainer.step(GrpoBatch(answers, advantages, logits, tokens))
    table = np.array(trainer.parameters[TABLE], np.float64)
    return [*chances, chance(table)], table


def chance(table: np.ndarray) -> float:
    odds = probabilities(table)
    return float(np.mean([odds[prompt] @ odds[:, 3] for prompt in (0, 1)]))


def test_the_reward_rises_and_a_heavier_kl_keeps_the_policy_nearer():
    free, moved = trained(kl_weight=0.0, updates=25)
    assert free[0] == pytest.approx(1 / V)  # exact: the policy begins without a preference
    assert free[-1] > 0.9
    held, near = trained(kl_weight=1.0, updates=25)
    assert 1 / V < held[-1] < free[-1] - 0.1
    assert divergence(near) < 0.5 * divergence(moved)


def divergence(table: np.ndarray) -> float:
    """KL to the reference, which has no preference, from the prompts' rows."""
    odds = probabilities(table)[:2]
    return float((odds * np.log(odds * V)).sum(axis=-1).mean())


def test_without_advantages_the_kl_leads_back_to_the_reference():
    samples = [told(NOW, *one) for one in ANSWERS]
    trainer = Trainer(
        parameters(NOW),
        GrpoObjective(tabular, kl_weight=1.0),
        Schedule(40, 0.1, warmup=1),
        matrices=lambda _, array: array[None],
    )
    batch = batch_of(samples, np.zeros(4), REFERENCE)
    kls = [trainer.step(batch)[1]["kl"].item() for _ in range(40)]
    assert kls[-1] < 0.1 * kls[0]
