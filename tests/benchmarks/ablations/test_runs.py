"""benchmarks/ablations: arms differ in one thing, runs go on where they were stopped."""

import signal
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from benchmarks import record
from benchmarks.ablations import lab_data, pictures, run
from benchmarks.ablations.__main__ import main
from benchmarks.ablations.arms import ARMS, LAB, Arm
from benchmarks.ablations.run import Lab, Plan, finished

SMALL = LAB.replace(
    hidden_size=64, num_hidden_layers=2, n_routed_experts=4, compress_ratios=(0, 4, 0)
)
TINY = Arm("base", "a small base", SMALL)
PLAIN = Arm("plain", "one stream", SMALL.replace(hc_mult=1), plain_residuals=True)
PLAN = Plan(steps=3, rows=2, length=64, measured_rows=1, needle_rows=1, every=2)


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Rows go to a folder of their own, and the text is short."""
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(lab_data, "_topics", lambda: ["A text about small models. " * 60] * 10)
    monkeypatch.setattr(lab_data, "FACTS", 16)
    for kept in (lab_data.texts, lab_data.facts):
        kept.cache_clear()
    yield
    for kept in (lab_data.texts, lab_data.facts):
        kept.cache_clear()


class Killed(Exception):
    pass


class KilledAt:
    """A listener that ends the program after a step."""

    def __init__(self, step: int):
        self.step = step

    def update(self, step: int, row: run.Mapping[str, float]) -> None:
        if step == self.step:
            raise Killed


def test_a_killed_run_goes_on_to_the_row_of_an_unbroken_one(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run.run(tmp_path / "a", TINY, 0, PLAN, "a", KilledAt(3))
    assert not finished(TINY, 0, PLAN)
    assert run.run(tmp_path / "a", TINY, 0, PLAN, "a")
    assert finished(TINY, 0, PLAN) and not finished(TINY, 1, PLAN)
    assert run.run(tmp_path / "b", TINY, 0, PLAN, "a")
    one, other = record.earlier("ablations")
    assert one | {"cpu_s": ""} == other | {"cpu_s": ""}
    assert (one["arm"], one["steps"], one["tokens"]) == ("base", "3", "384")
    curve = record.earlier("ablation_curves")
    assert [row["step"] for row in curve] == ["2", "3"]  # the second run adds no point twice
    assert {name: curve[-1][name] for name in run.MEASURED} == {n: one[n] for n in run.MEASURED}


class StoppedAt:
    """A listener that asks the program to end after a step."""

    def __init__(self, step: int):
        self.step = step

    def update(self, step: int, row: run.Mapping[str, float]) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_a_stopped_run_shows_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "ARMS", {"base": TINY})
    monkeypatch.setattr(pictures, "Plan", lambda steps: PLAN)
    assert not run.run(tmp_path / "a", TINY, 1, PLAN, "a", StoppedAt(2))
    assert [row["step"] for row in record.earlier("ablation_curves")] == ["2"]
    assert record.earlier("ablations") == []
    row = {"arm": "base", "steps": "3"}
    (curve,) = pictures.curves({"base": [row]}, "text_loss", ["base"])
    assert curve.label == "base" and [step for step, _ in curve.points] == [2]
    assert pictures.reached("base", {"base": [row]}) == 2
    assert run.run(tmp_path / "a", TINY, 1, PLAN, "a")
    assert [row["step"] for row in record.earlier("ablation_curves")] == ["2", "3"]
    assert [row["seed"] for row in record.earlier("ablations")] == ["1"]


def test_one_stream_without_mixing_weights_is_a_plain_residual() -> None:
    lab = Lab(PLAIN, 0, PLAN)
    layer = lab.objective.model.layers[1]
    x = mx.random.normal((1, 5, 1, 64), key=mx.random.key(0))
    y = mx.random.normal((1, 5, 64), key=mx.random.key(1))
    normed, post, comb = layer.attn_hc.collapse(x, layer.input_layernorm.weight)
    expected = mx.fast.rms_norm(x[:, :, 0], mx.ones(64), 1e-6)
    np.testing.assert_allclose(np.array(normed), np.array(expected), rtol=1e-3, atol=1e-4)
    after = layer.attn_hc.expand(y, x, post, comb)
    np.testing.assert_allclose(np.array(after[:, :, 0]), np.array(x[:, :, 0] + y), atol=1e-3)
    moved = {name for name in lab.trainer.parameters if "hc" in name}
    assert moved == set()


def test_the_adamw_arm_moves_everything_without_muon() -> None:
    lab = Lab(Arm("adamw", "", SMALL, only_adamw=True), 0, PLAN)
    before = dict(lab.trainer.parameters)
    lab.step(0)
    assert not lab.trainer.muon.state
    kept = [n for n, p in lab.trainer.parameters.items() if (p == before[n]).all().item()]
    assert [name for name in kept if "indexer" not in name] == []  # it selects nothing here


def test_the_selecting_arm_attends_chosen_entries_in_the_second_half() -> None:
    lab = Lab(Arm("selected", "", SMALL.replace(index_topk=4), selects=True), 0, PLAN)
    attentions = lab.objective._trained.attentions
    lab.step(0)
    assert {one.indexing for one in attentions} == {"dense"}
    indexers = [n for n in lab.trainer.parameters if "indexer" in n and n.endswith("weight")]
    before = {name: lab.trainer.parameters[name] for name in indexers}
    lab.step(1)
    assert {one.indexing for one in attentions} == {"sparse"}
    assert all((lab.trainer.parameters[n] != before[n]).any().item() for n in indexers)
    chosen = lab.measured()["text_loss"]
    lab.objective.set_indexing("off")
    assert lab.measured()["text_loss"] != chosen  # with 16 entries, 12 are left out


def test_entries_are_switched_off_by_kind_and_come_back() -> None:
    config = SMALL.replace(num_hidden_layers=3, compress_ratios=(0, 4, 128, 0))
    lab = Lab(Arm("base", "", config), 0, Plan(rows=1, length=140, needle_rows=2))
    model = lab.objective.model
    lab.objective.put(lab.trainer.buffers | lab.trainer.parameters)
    tokens = mx.array(lab_data.batch(0, 0, 1, 140).tokens[:, :-2])
    whole = model.logits(model.streams(tokens))
    for selects, first in ((True, 3), (False, 127)):  # where an entry of that kind is closed
        with run.without_entries(model, selects):
            altered = model.logits(model.streams(tokens))
        change = np.array(mx.abs(altered - whole).max(axis=-1)[0])
        assert change[:first].max() < 1e-3 < change[first:].max()
    again = model.logits(model.streams(tokens))
    assert mx.abs(again - whole).max().item() < 1e-3
    assert set(lab.switched()) == set(run.SWITCHED)


def test_needles_stand_alone_until_two_fifths_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def batch(*given: int, alone: bool) -> lab_data.Batch:
        made.append(alone)
        raise Killed

    monkeypatch.setattr(lab_data, "batch", batch)
    lab = Lab(TINY, 0, Plan(steps=5))
    for number in range(5):
        with pytest.raises(Killed):
            lab.step(number)
    assert made == [True, True, False, False, False]


def test_arms_have_the_parameters_of_the_base_within_two_in_a_hundred() -> None:
    sizes = {name: Lab(arm, 0, PLAN).sizes for name, arm in ARMS.items()}
    total, active = sizes["base"]
    assert 1e6 <= active <= 2e6
    for name, (count, _) in sizes.items():
        assert count == pytest.approx(total, rel=0.02), name


def test_every_arm_has_a_design_of_its_own() -> None:
    designs = {PLAN.design(arm) for arm in ARMS.values()}
    designs |= {Plan(steps=steps).design(TINY) for steps in (10, 20)}
    assert len(designs) == len(ARMS) + 2


def test_an_unknown_arm_is_one_sentence(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path), "--arm", "bigger"]) == 1
    assert main([str(tmp_path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("expected one of the arms base, plain-residuals")
    assert second.startswith("expected either --arm NAME or --all")


def test_the_list_says_what_is_finished(tmp_path: Path, capsys) -> None:
    common = {"seed": 2, "design": Plan().design(ARMS["adamw"]), "arm": "adamw"}
    record.record("ablations", "c", [dict.fromkeys(run.FIELDS, 0) | common], run.FIELDS)
    assert main([str(tmp_path), "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("finished: none")
    (line,) = (line for line in said if line.endswith("finished: 2"))
    assert line.startswith("adamw: ") and len(said) == len(ARMS)


def test_only_runs_of_equal_length_are_compared() -> None:
    rows = [
        {"arm": "base", "steps": "300"}, {"arm": "base", "steps": "700"},
        {"arm": "adamw", "steps": "300"}, {"arm": "plain-residuals", "steps": "700"},
    ]  # fmt: skip
    assert {name: len(found) for name, found in pictures.compared(rows).items()} == {
        "base": 1, "plain-residuals": 1,
    }  # fmt: skip
    assert pictures.compared([]) == {} and pictures.pictures() == {}
    assert "not run" in pictures.table()
