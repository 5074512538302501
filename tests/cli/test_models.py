"""Opening models: what is read of a folder, and how often."""

from pathlib import Path

import pytest

from dsv4_mlx.release import config_file
from dsv4_mlx.testing.checkpoints import LONG, write_tiny_checkpoint
from dsv4_mlx.weights import checkpoint
from tests.cli.machines import linux
from tests.cli.running import run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of a checkpoint that are read, as often as they are."""
    names: list[str] = []

    def counted(read):
        def counting(path: Path):
            names.append(path.name)
            return read(path)

        return counting

    for module in (config_file, checkpoint):
        monkeypatch.setattr(module, "read_object", counted(module.read_object))
    monkeypatch.setattr(checkpoint, "read_header", counted(checkpoint.read_header))
    return names


@pytest.mark.parametrize("gib", [2.01, 64], ids=["measured", "small"])
@pytest.mark.parametrize("level", ["low", "max"])
def test_a_folder_is_opened_once(
    tmp_path: Path, read: list[str], gib: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For its settings, the check of memory, the note about level max and the weights."""
    write_tiny_checkpoint(tmp_path, LONG)
    monkeypatch.setattr("cli.machine.memory.read_machine", lambda: linux(gib))
    options = ("--backend", "cpu", "--effort-table", "2026-07-31", "--think", level)
    done = run("--model", tmp_path, "-p", "Hi", "--max-tokens", "1", *options)
    assert done.status == 0, done.stderr
    files = {"config.json", *(file.name for file in tmp_path.glob("*.safetensors"))}
    opened = [name for name in read if name in files]
    assert sorted(opened) == sorted(files)
