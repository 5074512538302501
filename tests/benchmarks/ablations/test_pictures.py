"""benchmarks/ablations/pictures.py: tables and pictures of the rows that there are."""

import re
from pathlib import Path

import pytest

from benchmarks import claims, record
from benchmarks.ablations import pictures, run
from benchmarks.ablations.arms import ARMS
from benchmarks.ablations.run import Plan

STEPS = 10
LOSSES = {("base", 0): 3.5, ("base", 1): 3.7, ("engram", 0): 3.25, ("engram", 1): 3.35}


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")


def add(name: str, seed: int, loss: float, **more: float) -> None:
    """A finished run whose loss fell to `loss`, all its shares a half."""
    shares = {measure: 0.5 for measure in (*run.MEASURED, *run.SWITCHED)} | more
    own = {"arm": name, "seed": seed, "design": Plan(steps=STEPS).design(ARMS[name])}
    row = dict.fromkeys(run.FIELDS, 0) | shares | own | {"steps": STEPS, "text_loss": loss}
    record.record("ablations", "c", [row], run.FIELDS)
    points = [
        {field: (shares | own)[field] for field in run.CURVE_FIELDS if field in shares | own}
        | {"step": step, "text_loss": loss + STEPS - step}
        for step in (5, STEPS)
    ]
    record.record("ablation_curves", "c", points, run.CURVE_FIELDS)


def test_an_arm_is_set_beside_the_base_of_its_seed() -> None:
    for (name, seed), loss in LOSSES.items():
        add(name, seed, loss)
    add("adamw", 2, 4.0)  # the base has no such seed
    lines = pictures.differences().splitlines()
    assert lines[2:] == [
        "| engram | 2 | -0.300 (-0.350 to -0.250) | "
        + " | ".join(["0.000 (0.000 to 0.000)"] * 2)
        + " |"
    ]


def test_recall_is_told_by_what_sees_the_pair() -> None:
    add("base", 0, 3.5, near_recall=0.9, csa_recall=0.7, hca_recall=0.4, needle_recall=0.6)
    row = pictures.gaps().splitlines()[2]
    assert row == "| base | 0.900 | 0.700 | 0.400 | 0.600 | 0.500 | 0.500 |"


def test_the_reports_needles_stand_beside_ours() -> None:
    add("base", 0, 3.5, needle_recall=0.4, fact_recall=0.25)
    rows = pictures.beside_the_report().splitlines()[2:]
    assert rows[0].endswith("| 84.2 | 97.0 |")
    assert [row.partition(" | ")[2] for row in rows[1:]] == ["40.0 | not run |", "25.0 | not run |"]
    for seed, recall in ((0, 0.5), (1, 0.6)):
        add("engram", seed, 3.4, needle_recall=recall)
    assert "| 40.0 | 55.0 (50.0 to 60.0) |" in pictures.beside_the_report()


def test_every_arm_has_its_pictures_beside_the_base() -> None:
    add("base", 0, 3.5)
    assert set(pictures.pictures()) == {
        "ablations-fact-recall.svg",
        "ablations-gaps.svg",
        "ablations-needle-recall.svg",
    }
    for name in ARMS:
        if name != "base":
            add(name, 0, 3.4)
    drawn = pictures.pictures()
    assert drawn["ablations-gaps.svg"].count("<polyline") == 3
    assert {name for one in pictures.COMPARISONS.values() for name in one.arms} == {*ARMS} - {
        "base"
    }
    for key, comparison in pictures.COMPARISONS.items():
        for measure in comparison.measures:
            picture = drawn[f"ablations-{key}-{measure.replace('_', '-')}.svg"]
            assert picture.count("<polyline") == 1 + len(comparison.arms)
    shown = re.findall(r"!\[(.+)\]\(claims/(.+)\)", claims.links(drawn))
    assert [name for _, name in shown] == list(drawn)
    assert ("Facts recalled in an unseen wording, with and without Engram",
            "ablations-engram-fact-recall.svg") in shown  # fmt: skip


def test_without_a_run_the_page_says_so() -> None:
    assert claims.links(pictures.pictures()) == pictures.gaps() == "No run has ended yet."
    assert pictures.differences().startswith("No arm has a run")
