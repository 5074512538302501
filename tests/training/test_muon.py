"""Muon: the orthogonalisation, the size of an update, and the formula as a whole."""

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.release.engram import EngramConfig
from dsv4_mlx.testing.checkpoints import LONG
from dsv4_mlx.training.muon import AdamW, Muon, newton_schulz, update_scale
from dsv4_mlx.training.nano_recipe import matrices


def stack(name: str, array: mx.array) -> mx.array:
    return array.reshape(-1, *array.shape[-2:])


@pytest.mark.parametrize("shape", [(8, 8), (16, 48), (48, 16), (3, 24, 40)])
def test_newton_schulz_gives_orthogonal_matrices(shape):
    rng = np.random.default_rng(0)
    x = np.array(newton_schulz(mx.array(rng.standard_normal(shape).astype(np.float32))))
    singular = np.linalg.svd(x, compute_uv=False)
    # A singular value that starts tiny is not fully grown after ten steps; the rest are one.
    assert np.median(np.abs(singular - 1)) < 1e-2
    assert singular.max() < 1.05


def test_newton_schulz_keeps_the_singular_vectors():
    rng = np.random.default_rng(1)
    u, _ = np.linalg.qr(rng.standard_normal((12, 12)))
    v, _ = np.linalg.qr(rng.standard_normal((20, 12)))
    matrix = (u * np.linspace(1, 3, 12)) @ v.T
    x = np.array(newton_schulz(mx.array(matrix.astype(np.float32))))
    np.testing.assert_allclose(x, u @ v.T, atol=2e-2)


@pytest.mark.parametrize("shape", [(16, 24), (16, 64), (16, 512)])
def test_newton_schulz_leaves_directions_without_gradient_bounded(shape):
    rng = np.random.default_rng(7)
    thin = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    x = np.array(newton_schulz(mx.array(thin.astype(np.float32))))
    singular = np.linalg.svd(x, compute_uv=False)
    assert singular.max() < 1.05
    assert np.abs(singular[:3] - 1).max() < 5e-2 and singular[3:].max() < 0.5


@pytest.mark.parametrize("ratio", [1.7, 4, 32])
@pytest.mark.parametrize("smallest", [1.0, 1e-3])
def test_newton_schulz_follows_the_printed_iteration(ratio, smallest):
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((6, round(6 * ratio)))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    matrix = (left * np.array([1.0, 0.9, 0.5, 0.3, 0.1, 0.1 * smallest])) @ right
    x = matrix / np.linalg.norm(matrix)
    for a, b, c in [(3.4445, -4.7750, 2.0315)] * 8 + [(2, -1.5, 0.5)] * 2:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    found = np.array(newton_schulz(mx.array(matrix.astype(np.float32))))
    np.testing.assert_allclose(found, x, atol=1e-4)


def test_engrams_keys_and_its_value_are_matrices_of_their_own():
    """One update of `kv_proj` is that of a key for each stream and a value, each alone."""
    engram = EngramConfig((1,), 512, 300, max_ngram_size=3, n_heads=2, head_dim=32)
    config = LONG.replace(hidden_size=48, engram=engram)
    name = "model.layers.1.engram.kv_proj.weight"
    rng, count = np.random.default_rng(3), config.hc_mult + 1
    shape = (count, config.hidden_size, engram.width)
    parts, slopes = (mx.array(rng.standard_normal(shape).astype(np.float32)) for _ in range(2))
    slopes = slopes * mx.array([1.0, 30.0, 1e-3, 5.0, 0.2])[:, None, None]
    whole = Muon(matrices(config)).update(
        {name: parts.reshape(-1, engram.width)}, {name: slopes.reshape(-1, engram.width)}, 0.1
    )
    alone = Muon(stack).update(
        {str(n): parts[n] for n in range(count)}, {str(n): slopes[n] for n in range(count)}, 0.1
    )
    found = np.array(whole[name]).reshape(shape)
    for number in range(count):
        np.testing.assert_allclose(found[number], np.array(alone[str(number)]), atol=1e-4)
    together = Muon(stack).update(
        {name: parts.reshape(-1, engram.width)}, {name: slopes.reshape(-1, engram.width)}, 0.1
    )
    assert np.abs(found - np.array(together[name]).reshape(shape)).max() > 1e-2


def test_a_matrix_without_gradient_only_decays():
    weight = {"w": mx.ones((4, 6))}
    new = Muon(stack).update(weight, {"w": mx.zeros((4, 6))}, lr=0.5)
    np.testing.assert_allclose(np.array(new["w"]), 1 - 0.5 * 0.1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16)])
def test_an_update_has_the_rms_of_an_adam_update(shape):
    rng = np.random.default_rng(3)
    gradient = mx.array(rng.standard_normal(shape).astype(np.float32) * 1e-3)
    zero = {"w": mx.zeros(shape)}
    new = np.array(Muon(stack).update(zero, {"w": gradient}, lr=1.0)["w"])
    assert np.sqrt(np.mean(new**2)) == pytest.approx(0.18, rel=0.05)
    assert update_scale(*shape, 0.18) == pytest.approx(0.18 * max(shape) ** 0.5)


def test_muon_is_momentum_nesterov_and_decay_in_this_order():
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((8, 12)).astype(np.float32)
    gradients = rng.standard_normal((2, 8, 12)).astype(np.float32)
    muon, parameters = Muon(stack), {"w": mx.array(weight)}
    velocity, expected = np.zeros((8, 12), np.float32), weight
    for gradient in gradients:
        parameters = muon.update(parameters, {"w": mx.array(gradient)}, lr=0.01)
        velocity = 0.95 * velocity + gradient
        direction = np.array(newton_schulz(mx.array(0.95 * velocity + gradient)))
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * direction * 12**0.5 * 0.18
    np.testing.assert_allclose(np.array(parameters["w"]), expected, atol=1e-5)


def test_matrices_of_one_parameter_are_orthogonalised_one_by_one():
    rng = np.random.default_rng(5)
    experts = rng.standard_normal((3, 8, 8)).astype(np.float32)
    experts[1] *= 100  # a loud expert must not drown the others
    zero = mx.zeros((3, 8, 8))
    together = np.array(Muon(stack).update({"w": zero}, {"w": mx.array(experts)}, lr=1.0)["w"])
    for i in range(3):
        alone = Muon(stack).update({"w": zero[i]}, {"w": mx.array(experts[i])}, lr=1.0)["w"]
        np.testing.assert_allclose(together[i], np.array(alone), atol=1e-4)


def test_adamw_equals_the_textbook():
    rng = np.random.default_rng(6)
    parameter = rng.standard_normal(5)
    adamw, mine = AdamW(), {"b": mx.array(parameter.astype(np.float32))}
    mean, square = np.zeros(5), np.zeros(5)
    for step in (1, 2, 3):
        gradient = rng.standard_normal(5)
        mine = adamw.update(mine, {"b": mx.array(gradient.astype(np.float32))}, lr=0.1)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.95 * square + 0.05 * gradient**2
        update = (mean / (1 - 0.9**step)) / np.sqrt(square / (1 - 0.95**step))
        parameter = parameter * (1 - 0.1 * 0.1) - 0.1 * update
    np.testing.assert_allclose(np.array(mine["b"]), parameter, atol=1e-5)


def test_adamw_leaves_what_has_no_gradient_finite():
    new = AdamW(weight_decay=0.0).update({"b": mx.ones(3)}, {"b": mx.zeros(3)}, lr=0.1)
    assert np.array(new["b"]).tolist() == [1, 1, 1]
