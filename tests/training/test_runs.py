"""Runs: what outlives a stop, a kill between two saves, and a second program."""

import io
import os
import signal
import xml.etree.ElementTree as ET

import mlx.core as mx
import numpy as np
import pytest

from dsv4_mlx.errors import UsageError
from dsv4_mlx.training.curves import line_plot, thinned, ticks
from dsv4_mlx.training.progress import RunProgress, spoken
from dsv4_mlx.training.runs import TrainingRun
from dsv4_mlx.training.trainer import Schedule, Trainer


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
    root = ET.parse(tmp_path / "loss.svg").getroot()
    line = root.find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None and len(line.attrib["points"].split()) == 4


def test_a_plot_places_points_between_its_axes():
    text = line_plot(
        {"a<b": [(0, 1.0), (10, 3.0), (5, float("nan"))]}, title="t", across="x", up="y"
    )
    line = ET.fromstring(text).find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    (x0, y0), (x1, y1) = (map(float, p.split(",")) for p in line.attrib["points"].split())
    assert x1 > x0 and y1 < y0  # up is up
    assert "a&lt;b" in text
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10] and ticks(3, 3) == [3]
    assert thinned([(float(i), 1.0) for i in range(1200)])[0] == (0.5, 1.0)
    assert "<polyline" in line_plot({"none": []}, title="t", across="x", up="y")


def test_progress_tells_rate_time_left_and_loss():
    now = iter(range(0, 1000, 10))
    text = io.StringIO()
    with RunProgress(40, tokens=500, every=2, file=text, clock=lambda: next(now)) as progress:
        progress.update(1, {"loss": 3.0})
        progress.update(2, {"loss": 2.5})
    assert text.getvalue() == "step 2 of 40  loss 2.500, 50 tokens/s, 6 min 20 s left\n"
    assert spoken(7500) == "2 h 05 min" and spoken(8.2) == "8 s"
