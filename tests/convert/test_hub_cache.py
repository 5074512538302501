"""A repository in a hub's cache as the source of a conversion."""

from pathlib import Path

import pytest

from convert.app import main
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_checkpoint

SMALL = TINY.replace(
    num_hidden_layers=1, compress_ratios=(0, 0), num_hash_layers=1, n_routed_experts=4
)


def test_the_snapshot_is_converted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models--someone--V4"
    snapshot = write_tiny_checkpoint(repository / "snapshots" / "abc", SMALL)
    assert main([str(repository), str(tmp_path / "out")]) == 0
    assert f"{repository}: snapshot abc of the hub's cache is used" in capsys.readouterr().err
    assert open_checkpoint(tmp_path / "out").config == open_checkpoint(snapshot).config
    assert main(["verify", str(tmp_path / "out"), "--against", str(repository)]) == 0
    assert main(["inspect", str(repository)]) == 0
    assert str(snapshot) in capsys.readouterr().out


def test_facts_for_programs_stay_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = tmp_path / "models--someone--V4"
    write_tiny_checkpoint(repository / "snapshots" / "abc", SMALL)
    assert main([str(repository), str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    assert capsys.readouterr().out.startswith("{\n")
