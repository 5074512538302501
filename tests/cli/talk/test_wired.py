"""What the chat says of memory that stays resident: in its status, once as a problem, at /model."""

from pathlib import Path
from typing import Any

import pytest

from cli.show.screen.status import status_line
from cli.show.surface import Status
from dsv4_mlx.chat.tokenizer import Tokenizer
from dsv4_mlx.device.memory import hold
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.loading import load_model
from dsv4_mlx.testing.checkpoints import TINY, write_tiny_checkpoint
from tests.cli.running import run
from tests.device.devices import GIB, RecordingDevice, install


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_tiny_checkpoint(tmp_path / name, TINY) for name in ("one", "two")]


def open_model(folder: Any, options: Any) -> tuple[Engine, Tokenizer]:
    """A model that computes here and is held as on a Mac: 10 GiB."""
    model = load_model(folder.checkpoint, backend="cpu")
    model.memory = hold("metal", 10 * GIB, lambda _: None)
    model.memory.end_with(model)
    return Engine(model), Tokenizer(folder.folder)


def test_the_status_says_what_is_wired() -> None:
    status = Status("V4", "none", "metal", wired_bytes=158_600_000_000)
    line = "".join(text for _, text in status_line(status, 80))
    assert line.endswith("metal, 159 GB wired")
    assert "wired" not in "".join(text for _, text in status_line(Status("V4", "", "cpu"), 80))


def test_the_next_model_wires_anew_and_the_one_before_lets_go(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, device := RecordingDevice())
    first, second = folders
    typed = f"hello\n/model {second}\nhello\n/quit\n"
    ran = run(
        "--model", first, "--max-tokens", "1", "--no-save", typed=typed, open_model=open_model
    )
    assert ran.status == 0, ran.stderr
    assert device.limits[:3] == [10 * GIB, 0, 10 * GIB]


@pytest.mark.parametrize("arguments", [["-p", "hello"], []], ids=["once", "prompt"])
def test_a_problem_is_one_line_that_is_said_once(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    install(monkeypatch, RecordingDevice(), macos="14.7.1")
    typed = None if arguments else "hello\nhello\n/quit\n"
    options = ["--model", folders[0], "--max-tokens", "1", "--no-save", *arguments]
    ran = run(*options, typed=typed, open_model=open_model)
    assert ran.status == 0
    said = (ran.stdout + ran.stderr).splitlines()
    assert len([line for line in said if "macOS 14.7.1 keeps no model resident" in line]) == 1
