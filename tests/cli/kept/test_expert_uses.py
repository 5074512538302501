"""What replies found of experts is kept by run and by model, and nothing depends on it."""

from pathlib import Path

import pytest

from cli.kept.expert_uses import ExpertUses, kept_expert_uses
from dsv4_mlx.engine.expert_use import ExpertUse

REPLY = ExpertUse(9, 30, 10, 1_000, 0.5)


def test_replies_of_a_run_add_up_and_another_run_begins_anew(tmp_path: Path) -> None:
    uses, model = ExpertUses(tmp_path / "experts"), tmp_path / "model"
    assert uses.load(model) is None
    run = uses.of_run(model)
    run(ExpertUse(9))  # a prompt that was stopped
    assert uses.load(model) is None
    run(REPLY)
    run(REPLY)
    kept = uses.load(model)
    assert kept is not None and kept.use == ExpertUse(9, 60, 20, 2_000, 1.0)
    assert "found 75% of 80 in memory and waited 1.0 s" in kept.sentence()
    assert uses.load(tmp_path / "other") is None
    uses.of_run(model)(REPLY)
    again = uses.load(model)
    assert again is not None and again.use == REPLY


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"use": {}, "day": "2026-11-30"}', '{"use": 1, "day": 2}', "\0"]
)
def test_a_file_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    uses = ExpertUses(tmp_path)
    uses.store(tmp_path / "model", REPLY)
    (file,) = tmp_path.glob("*.json")
    file.write_text(text)
    assert uses.load(tmp_path / "model") is None


def test_numbers_that_are_none_are_none(tmp_path: Path) -> None:
    uses = ExpertUses(tmp_path)
    uses.store(tmp_path / "model", REPLY)
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text().replace("30,", '"many",', 1))
    assert uses.load(tmp_path / "model") is None


def test_nothing_is_kept_where_nobody_wants_it_and_a_full_disk_is_no_failure(
    tmp_path: Path,
) -> None:
    assert kept_expert_uses({"DSV4_HOME": str(tmp_path)}, keep=False) is None
    (tmp_path / "experts").write_text("a file in the place of the folder")
    uses = kept_expert_uses({"DSV4_HOME": str(tmp_path)}, keep=True)
    assert uses is not None
    uses.store(tmp_path / "model", REPLY)
    assert uses.load(tmp_path / "model") is None
