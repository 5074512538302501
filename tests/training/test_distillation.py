"""Distillation: the exact divergence of student and teacher, and each teacher on its own rows."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.training.distillation import DistillationBatch, DistillationObjective, taught
from dsv4_mlx.training.objective import NanoObjective
from dsv4_mlx.training.policy import V4Policy, entropy, reverse_kl
from dsv4_mlx.training.rollouts import Sample, as_batch
from dsv4_mlx.training.trainer import Schedule, Trainer
from tests.model import small
from tests.training import tiny
from tests.training.tabular import TABLE, answer, probabilities, tabular

V = 6


def test_the_divergence_and_its_gradient_are_those_of_float64():
    rng = np.random.default_rng(2)
    logits, teacher = rng.normal(size=(3, V)), 3 * rng.normal(size=(3, V))
    given = [mx.array(a.astype(np.float32)) for a in (logits, teacher)]
    found = np.array(reverse_kl(*given))
    p, q = probabilities(logits), probabilities(teacher)
    expected = (p * np.log(p / q)).sum(axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradient = mx.grad(lambda a: reverse_kl(a, given[1]).sum())(given[0])
    by_hand = p * (np.log(p / q) - expected[:, None])
    np.testing.assert_allclose(np.array(gradient), by_hand, rtol=1e-4, atol=1e-6)
    assert not np.array(mx.grad(lambda b: reverse_kl(given[0], b).sum())(given[1])).any()
    np.testing.assert_allclose(
        np.array(entropy(given[0])), -(p * np.log(p)).sum(axis=-1), rtol=1e-5
    )


def test_a_policy_does_not_differ_from_itself():
    logits = mx.array([[1e4, -1e4, 0.0], [3.0, 2.0, 1.0]])
    assert np.array(reverse_kl(logits, logits)).tolist() == [0, 0]


def test_a_student_becomes_each_teacher_in_its_domain():
    """Prompts 0 and 1 are the domains; the answers are drawn from the student anew every time."""
    rng = np.random.default_rng(7)
    teachers = [2 * rng.normal(size=(V, V)) for _ in range(2)]
    trainer = Trainer(
        {TABLE: mx.zeros((V, V))},
        DistillationObjective(tabular),
        Schedule(60, 0.2, warmup=1),
        matrices=lambda _, array: array[None],
    )
    kls = []
    for _ in range(60):
        table = np.array(trainer.parameters[TABLE], np.float64)
        answers = as_batch([answer(table, prompt, 1, rng) for prompt in (0, 0, 1, 1)])
        logits = [teachers[prompt][prompt] for prompt in (0, 0, 1, 1)]
        batch = DistillationBatch(answers, mx.array(np.array(logits, np.float32)))
        kls.append(trainer.step(batch)[1]["kl"].mean().item())
    assert kls[-1] < 0.01 * kls[0]
    learnt = probabilities(np.array(trainer.parameters[TABLE]))
    for prompt, teacher in enumerate(teachers):
        np.testing.assert_allclose(learnt[prompt], probabilities(teacher)[prompt], atol=0.05)


@pytest.fixture(scope="module")
def policy() -> tuple[V4Policy, list[dict[str, mx.array]]]:
    """A tiny V4 as a policy, and two sets of weights."""
    (one, fixed), (other, _) = tiny.weights(0), tiny.weights(1)
    return V4Policy(NanoObjective(tiny.TINY, fixed), fixed), [one, other]


SAMPLES = [
    Sample((5, 6, 7), (8, 1), (0, 0), True),
    Sample((5, 9), (10, 11, 4), (0, 0, 0), True),
    Sample((3,), (12, 13, 14, 15), (0,) * 4, False),
]


def test_each_teacher_judges_its_own_rows(policy):
    v4, (one, other) = policy
    answers = as_batch(SAMPLES)
    batch = taught(v4, answers, [(one, 2), (other, 1)])
    assert batch.teacher_logits.shape == (9, tiny.TINY.vocab_size)
    apart = [v4.logits(weights, answers) for weights in (one, other)]
    for found, expected in (
        (batch.teacher_logits[:5], apart[0][:5]),
        (batch.teacher_logits[5:], apart[1][5:]),
    ):
        assert small.relative_error(np.array(found), np.array(expected)) < 1e-4


def test_the_drafts_learn_from_the_answers_and_move_nothing_else(policy):
    v4, (one, _) = policy
    answers = as_batch(SAMPLES)
    own = mx.grad(lambda p: v4(p, answers)[1])(one)
    logits = mx.grad(lambda p: v4(p, answers)[0].square().mean())(one)
    moved = {name for name, g in own.items() if mx.abs(g).max().item() > 0}
    assert moved and all(name.startswith("mtp.") for name in moved)
    touched = {name for name, g in logits.items() if mx.abs(g).max().item() > 0}
    assert touched and not any(name.startswith("mtp.") for name in touched)


def test_a_teacher_leaves_nothing_in_the_student(policy):
    """Its own table of experts and its biases among what it brings."""
    v4, (one, other) = policy
    answers = as_batch(SAMPLES)
    before = np.array(v4.logits(one, answers))
    _, fixed = tiny.weights(1)
    assert not np.array_equal(np.array(v4.logits(other | fixed, answers)), before)
    assert np.array_equal(np.array(v4(one, answers)[0]), before)
