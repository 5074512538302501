"""The losses on cases small enough to check by hand."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.training.losses import balance_loss, corrected_bias, cross_entropy, load_fractions


def test_cross_entropy_counts_each_target_by_its_weight():
    logits = mx.log(mx.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    targets, weights = mx.array([[1, 2]]), mx.array([[3.0, 1.0]])
    expected = -(3 * np.log(0.25) + np.log(0.8)) / 4
    assert cross_entropy(logits, targets, weights).item() == pytest.approx(expected, rel=1e-5)


def test_balance_loss_is_one_when_even_and_grows_when_not():
    even = mx.array([[1.0, 1.0], [1.0, 1.0]])
    assert balance_loss(even, load_fractions(mx.array([[0], [1]]), 2)).item() == pytest.approx(1)
    lopsided = mx.array([[3.0, 1.0], [3.0, 1.0]])
    assert balance_loss(lopsided, load_fractions(mx.array([[0], [0]]), 2)).item() == pytest.approx(
        1.5
    )


def test_balance_loss_pushes_the_score_of_the_crowded_expert_down():
    load = load_fractions(mx.array([[0], [0]]), 2)
    gradient = mx.grad(lambda scores: balance_loss(scores, load))(mx.ones((2, 2)))
    assert (np.array(gradient)[:, 0] > 0).all() and (np.array(gradient)[:, 1] < 0).all()


def test_the_bias_rises_for_idle_experts_and_falls_for_crowded_ones():
    load = load_fractions(mx.array([[0, 1], [0, 1], [0, 2]]), 4)
    np.testing.assert_allclose(np.array(load), [3 / 6, 2 / 6, 1 / 6, 0])
    bias = corrected_bias(mx.zeros(4), load)
    np.testing.assert_allclose(np.array(bias), [-0.001, -0.001, 0.001, 0.001])
