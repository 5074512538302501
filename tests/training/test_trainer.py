"""The loop on a tiny V4: it learns, and an interrupted run ends where an unbroken one does."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.training.data.batches import Batch
from dsv4_mlx.training.nano_init import initial_parameters
from dsv4_mlx.training.nano_recipe import NanoRecipe, _prepared
from dsv4_mlx.training.trainer import Schedule, Trainer, clipped, uses_muon
from tests.training.small import SMALL


def counting(rows: int = 4, length: int = 24) -> Batch:
    """Rows that count upwards from different numbers: the next token is certain."""
    tokens = (np.arange(length + 2) + 7 * np.arange(rows)[:, None]) % 32
    return Batch(tokens.astype(np.int32), np.ones((rows, length + 2), np.float32))


def test_a_tiny_v4_learns_to_count():
    trainer, objective, _ = _prepared(NanoRecipe(peak=2e-2), SMALL)
    losses, extras = [], {}
    for _ in range(14):
        loss, extras = trainer.step(counting())
        losses.append(loss)
    assert losses[-1] < 0.25 * losses[0]
    # Three score routers: the hash layer has none, the MTP block has one.
    loads = [np.array(extras[name]) for name in objective.routers]
    assert len(loads) == 3
    assert all(load.sum() == pytest.approx(1) for load in loads)


def test_every_trained_parameter_but_the_indexers_gets_a_gradient():
    trainer, objective, _ = _prepared(NanoRecipe(), SMALL)
    gradients = mx.grad(lambda p: objective(p, counting(length=132))[0])(trainer.parameters)
    still = {name for name, g in gradients.items() if not mx.abs(g).max().item() > 0}
    # Only their own loss moves them, and they do not learn before the recipe says so.
    assert all(".indexer." in name for name in still), still


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    def quadratic(parameters, target):
        return mx.square(parameters["w"] - target).sum() + parameters["b"].sum() ** 2, {}

    def trainer():
        start = {"w": mx.ones((4, 4)), "b": mx.ones(3)}
        return Trainer(start, quadratic, Schedule(10, 0.1), matrices=lambda _, a: a[None])

    targets = [mx.full((4, 4), 0.1 * i) for i in range(6)]
    unbroken = trainer()
    for target in targets:
        unbroken.step(target)
    first = trainer()
    for target in targets[:3]:
        first.step(target)
    first.save(tmp_path / "state.safetensors")
    second = trainer()
    second.load(tmp_path / "state.safetensors")
    assert second.steps == 3
    for target in targets[3:]:
        second.step(target)
    for name, value in unbroken.parameters.items():
        assert mx.array_equal(value, second.parameters[name])


def test_training_state_of_another_model_is_refused(tmp_path):
    def nothing(parameters, batch):
        return parameters["w"].sum(), {}

    def trainer(size):
        start = {"w": mx.ones((size, 2))}
        return Trainer(start, nothing, Schedule(2, 0.1), matrices=lambda _, a: a[None])

    trainer(3).save(tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="another model"):
        trainer(4).load(tmp_path / "state.safetensors")


def test_the_learning_rate_rises_stays_and_falls():
    schedule = Schedule(steps=100, peak=1.0, warmup=10, plateau=0.5, final=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == rates[49] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[51:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_gradients_are_scaled_together():
    found = clipped({"a": mx.array([3.0]), "b": mx.array([4.0])}, 1.0)
    np.testing.assert_allclose([found["a"].item(), found["b"].item()], [0.6, 0.8], rtol=1e-6)
    same = clipped({"a": mx.array([0.3])}, 1.0)
    assert same["a"].item() == pytest.approx(0.3)


def test_muon_gets_the_matrices_and_adamw_the_rest():
    for name, value in initial_parameters(SMALL, 0).items():
        if name.endswith(("tid2eid", "e_score_correction_bias")):
            continue
        expected = value.ndim > 1 and not any(
            part in name for part in ("embed_tokens", "lm_head", "position_bias")
        )
        assert uses_muon(name, value) == expected, name
