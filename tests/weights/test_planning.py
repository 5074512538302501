"""The plan of a checkpoint's parameters: what it costs to make one."""

import gc
from pathlib import Path
from typing import Any

import pytest

from dsv4_mlx.errors import CheckpointError
from dsv4_mlx.files.safetensors_files import TensorEntry
from dsv4_mlx.release.tensors import checkpoint_tensors
from dsv4_mlx.testing.checkpoints import TINY
from dsv4_mlx.weights import planning
from dsv4_mlx.weights.checkpoint import Checkpoint


def release() -> Checkpoint:
    """Headers of a release's files; no scale is read of a plan whose storages are known."""
    tensors = {
        name: TensorEntry(name, dtype, shape, Path("release"), 0, 0)
        for name, dtype, shape in checkpoint_tensors(TINY)
    }
    return Checkpoint(Path("release"), {}, TINY, tensors)


def test_each_official_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Flash there are 69,187."""
    asked: list[str] = []
    looked_up = planning.translate

    def counted(name: str) -> Any:
        asked.append(name)
        return looked_up(name)

    monkeypatch.setattr(planning, "translate", counted)
    checkpoint = release()
    planning.plan_parameters(checkpoint, {})
    assert sorted(asked) == sorted(checkpoint.tensors)


@pytest.mark.parametrize("on", [True, False])
def test_garbage_is_looked_for_afterwards_as_before(on: bool) -> None:
    whole = release()
    less = Checkpoint(whole.folder, {}, TINY, dict(list(whole.tensors.items())[1:]))
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        planning.plan_parameters(whole, {})
        assert gc.isenabled() is on
        with pytest.raises(CheckpointError, match="is missing"):
            planning.plan_parameters(less, {})
        assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()
