"""Runs: what outlives a stop, a kill between two saves, and a second program."""

import io
import os
import signal
import xml.etree.ElementTree as ET

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.data.batches import Batch
from dsv4_mlx.training.nano_recipe import NanoRecipe, Phase, Pretraining
from dsv4_mlx.training.progress import RunProgress, spoken
from dsv4_mlx.training.runs import TrainingRun
from dsv4_mlx.training.trainer import Schedule, Trainer
from tests.training.tiny import TINY


def small_trainer() -> Trainer:
    def quadratic(parameters, target):
        return mx.square(parameters["w"] - target).sum() + parameters["b"].sum() ** 2, {}

    start = {"w": mx.ones((4, 4)), "b": mx.ones(3)}
    return Trainer(start, quadratic, Schedule(10, 0.1), matrices=lambda _, a: a[None])


def stepping(trainer, before=lambda n: None):
    """A step whose target is drawn from the step's number alone."""

    def step(n: int) -> dict[str, float]:
        before(n)
        target = np.random.default_rng([7, n]).normal(size=(4, 4)).astype(np.float32)
        return {"loss": trainer.step(mx.array(target))[0]}

    return step


def trained(folder, steps, before=lambda n: None, save_every=3):
    trainer = small_trainer()
    with TrainingRun(folder, {"seed": 7}) as run:
        done = run.go_on(trainer, steps, stepping(trainer, before), save_every=save_every)
        return trainer, run.curve(), done


def assert_equal(one, other):
    for group in ("parameters", "buffers"):
        for name, value in getattr(one, group).items():
            assert mx.array_equal(value, getattr(other, group)[name]), name
    for name, value in one.muon.state.items():
        assert mx.array_equal(value, other.muon.state[name]), name


def test_a_stopped_run_goes_on_as_an_unbroken_one(tmp_path):
    unbroken, whole_curve, done = trained(tmp_path / "unbroken", 8)
    assert done
    stop = {4: signal.SIGINT, 6: signal.SIGTERM}
    for at, number in stop.items():
        _, curve, done = trained(
            tmp_path / "stopped", 8, lambda n, at=at, k=number: n == at and os.kill(os.getpid(), k)
        )
        assert not done and curve[-1]["step"] == at + 1  # the step in hand is finished and kept
    resumed, curve, done = trained(tmp_path / "stopped", 8)
    assert done and curve == whole_curve
    assert_equal(unbroken, resumed)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_from_its_last_save_with_every_step_logged_once(tmp_path):
    def killed(n):
        if n == 5:
            raise Killed

    unbroken, whole_curve, _ = trained(tmp_path / "unbroken", 8)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", 8, killed)
    with TrainingRun(tmp_path / "killed") as run:
        assert run.steps == 3 and run.curve()[-1]["step"] == 5
        with (run.folder / "curve.csv").open("a") as file:
            file.write("2,0.")  # a line that the kill cut
    resumed, curve, _ = trained(tmp_path / "killed", 8)
    assert curve == whole_curve
    assert_equal(unbroken, resumed)


def test_a_run_killed_before_its_first_save_begins_anew(tmp_path):
    def killed(n):
        if n == 2:
            raise Killed

    _, whole_curve, _ = trained(tmp_path / "unbroken", 4)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", 4, killed)
    assert trained(tmp_path / "killed", 4)[1] == whole_curve


def test_other_settings_and_a_second_program_are_refused(tmp_path):
    with (
        TrainingRun(tmp_path, {"seed": 7, "peak": 0.1}),
        pytest.raises(UsageError, match="another program"),
    ):
        TrainingRun(tmp_path)
    with pytest.raises(UsageError, match=r"seed 7.*found 8"):
        TrainingRun(tmp_path, {"seed": 8, "peak": 0.1})
    TrainingRun(tmp_path, {"peak": 0.1, "seed": 7}).close()


def test_a_row_with_other_columns_is_refused(tmp_path):
    with TrainingRun(tmp_path) as run:
        run.log({"step": 1, "loss": 2.0})
        with pytest.raises(UsageError, match="step, loss"):
            run.log({"step": 2, "reward": 2.0})


def test_a_finished_run_trains_no_further_and_keeps_its_picture(tmp_path):
    trained(tmp_path, 4)
    _, curve, done = trained(tmp_path, 4)
    assert done and len(curve) == 4
    assert ET.parse(tmp_path / "loss.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_progress_tells_rate_time_left_and_loss():
    now = iter(range(0, 1000, 10))
    text = io.StringIO()
    with RunProgress(40, tokens=500, every=2, file=text, clock=lambda: next(now)) as progress:
        progress.update(1, {"loss": 3.0})
        progress.update(2, {"loss": 2.5})
    assert text.getvalue() == "step 2 of 40  loss 2.500, 50 tokens/s, 6 min 20 s left\n"
    assert spoken(7500) == "2 h 05 min" and spoken(8.2) == "8 s"


def test_the_base_stage_resumed_equals_an_unbroken_one_over_its_phases(tmp_path):
    phases = (Phase(1, 2, 24, "off"), Phase(1, 1, 40, "dense"), Phase(2, 1, 40, "sparse"))

    def drawn(number: int, phase: Phase) -> Batch:
        rng = np.random.default_rng([5, number])
        tokens = rng.integers(0, 416, (phase.rows, phase.length + 2)).astype(np.int32)
        return Batch(tokens, np.ones(tokens.shape, np.float32))

    def trained_stage(folder, stops):
        for stop in stops:
            stage = Pretraining(NanoRecipe(phases=phases), TINY.replace(index_topk=4), drawn)
            with TrainingRun(folder) as run:
                run.go_on(stage.trainer, stop, stage.step)
        return stage, run.curve()

    unbroken, whole_curve = trained_stage(tmp_path / "unbroken", [4])
    resumed, curve = trained_stage(tmp_path / "resumed", [1, 3, 4])
    assert [row["length"] for row in curve] == [24, 40, 40, 40]
    np.testing.assert_array_equal(
        [list(row.values()) for row in curve], [list(row.values()) for row in whole_curve]
    )
    assert np.isfinite([row["index"] for row in curve[1:]]).all()
    assert any(mx.abs(value).max().item() > 0 for value in resumed.trainer.buffers.values())
    assert_equal(unbroken.trainer, resumed.trainer)


def test_a_recipe_is_shortened_in_proportion():
    recipe = NanoRecipe()
    short = recipe.shortened(21)
    assert short.steps == 21
    assert [p.length for p in short.phases] == [256, 512, 256, 512, 1024, 1024, 2048]
    assert short.phase(0).kinds == ("recall",) and len(short.phase(20).kinds) == 7
    assert short.phase(0).indexing == "off" and short.phase(20).indexing == "sparse"
    for phases in (recipe.phases[:2], recipe.phases[2:]):  # of drills, then of all lessons
        lengths = [phase.length for phase in phases]
        assert lengths == sorted(lengths)
    assert [recipe.phase(step) for step in (0, 60, 100)] == list(recipe.phases[:3])
