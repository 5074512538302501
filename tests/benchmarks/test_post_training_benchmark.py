"""benchmarks/post_training.py: what runs reached, and what the page says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import post_training as benchmark
from benchmarks import record

STEPS = 20


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")


def written(folder: Path, shares: dict[tuple[int, str], float], **settings: Any) -> Path:
    """A run with the sampled `shares` of its steps and models, and a curve of STEPS updates."""
    folder.mkdir()
    given = {"stage": "grpo", "expert": "arithmetic", "steps": STEPS, "seed": 0, "start": "ab" * 9}
    (folder / "run.json").write_text(json.dumps(given | settings))
    rows = [f"{s},{m},arithmetic,chat,30,0.5,{x}" for (s, m), x in shares.items()]
    head = "step,model,kind,mode,prompts,greedy,sampled"
    (folder / "scores.csv").write_text("\n".join([head, *rows, ""]))
    curve = [f"{step},0.{step:02},0.5,0.001,0.1" for step in range(1, STEPS + 5)]
    (folder / "curve.csv").write_text("\n".join(["step,reward,right,kl,entropy", *curve, ""]))
    return folder


def seeds(tmp_path: Path, *afters: float) -> None:
    for seed, after in enumerate(afters):
        shares = {(0, "student"): 0.5, (10, "student"): 0.9, (STEPS, "student"): after}
        benchmark.add(written(tmp_path / f"run{seed}", shares, seed=seed))


def test_a_change_of_seeds_that_agree_is_beyond_their_spread(tmp_path: Path) -> None:
    seeds(tmp_path, 0.6, 0.65, 0.7)
    (row,) = benchmark.grpo_table().splitlines()[2:]
    assert "| 3 | arithmetic, Non-Think, 30 | 50.0 % | 65.0 % (60.0 to 70.0) |" in row
    assert row.endswith("| +10.0, +15.0, +20.0 | yes |")


def test_a_change_of_seeds_that_lie_apart_is_none(tmp_path: Path) -> None:
    seeds(tmp_path, 0.45, 0.6)
    assert benchmark.grpo_table().endswith("| -5.0, +10.0 | no |")


def test_one_seed_says_nothing_of_a_spread(tmp_path: Path) -> None:
    seeds(tmp_path, 0.9)
    assert benchmark.grpo_table().endswith("| +40.0 | one seed |")


def test_a_run_is_added_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    run = written(tmp_path / "run", {(0, "student"): 0.5})
    assert benchmark.add(run) == 1 + STEPS // 10
    assert benchmark.add(run) == 0
    assert benchmark.grpo_table() == "No run of GRPO has ended yet."
    with (run / "scores.csv").open("a") as file:
        file.write(f"{STEPS},student,arithmetic,chat,30,0.5,0.75\n")
    assert benchmark.add(run) == 1
    assert "| 75.0 % |" in benchmark.grpo_table()


def test_other_settings_are_other_rows(tmp_path: Path) -> None:
    for number, peak in enumerate((1e-3, 3e-4)):
        shares = {(0, "student"): 0.5, (STEPS, "student"): 0.6}
        benchmark.add(written(tmp_path / str(number), shares, peak=peak))
    assert len(benchmark.grpo_table().splitlines()) == 4
    assert benchmark.pictures()["grpo-reward.svg"].count("<polyline") == 2


def test_a_curve_is_means_of_ten_updates(tmp_path: Path) -> None:
    seeds(tmp_path, 0.6)
    rows = record.earlier("post_training_curves")
    assert [(row["step"], row["reward"]) for row in rows] == [("10", "0.055"), ("20", "0.155")]


def test_students_stand_beside_their_teachers(tmp_path: Path) -> None:
    shares = {(0, "arithmetic"): 0.9, (0, "student"): 0.5, (STEPS, "student"): 0.88}
    run = written(tmp_path / "run", shares, stage="distill", expert="")
    benchmark.add(run)
    assert benchmark.students_table().splitlines()[2:] == [
        "| arithmetic, Non-Think, 30 | arithmetic | 50.0 % | 88.0 % | 90.0 % |",
    ]


def test_without_a_run_the_page_says_so() -> None:
    assert benchmark.grpo_table() == "No run of GRPO has ended yet."
    assert benchmark.students_table() == "No distillation has ended yet."
    assert benchmark.pictures() == {}
