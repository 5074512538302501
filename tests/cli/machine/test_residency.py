"""A token is timed once a large model is loaded on Metal, and told where its memory was taken."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from cli.machine import residency
from cli.machine.residency import slow_memory
from cli.models import load_model
from cli.opened_model import OpenedModel
from cli.options import Options
from dsv4_mlx.chat.settings import ChatSettings
from dsv4_mlx.device.memory import HeldMemory
from dsv4_mlx.engine import timed_token
from dsv4_mlx.engine.engine import Engine
from dsv4_mlx.errors import KernelError
from dsv4_mlx.scripted.fake import FakeModel
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from dsv4_mlx.weights.checkpoint import open_folder
from tests.cli.machines import GIB, mac
from tests.engine.sessions import engine
from tests.engine.small_models import SMALL


class OnMetal(FakeModel):
    """Says that it runs there."""

    weights_elsewhere = False

    def __init__(self, wanted: int = 50 * GIB) -> None:
        super().__init__()
        self.memory = HeldMemory(wanted)
        self.finished = 0

    def kernel_plan(self) -> dict[str, str]:
        return {"backend": "metal"}

    def finish_warm_up(self) -> None:
        self.finished += 1


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What tokens take, each time one is timed; on a Mac whose memory a model fills."""
    left: list[float] = []
    monkeypatch.setattr(residency, "read_machine", lambda: mac(64))
    monkeypatch.setattr(residency, "is_small", lambda folder, machine: False)
    monkeypatch.setattr(timed_token, "token_seconds", lambda *_, **__: left.pop())
    return left


def test_a_slow_token_is_told_with_the_line_that_keeps_memory(seconds: list[float]) -> None:
    seconds += [7.0, 0.0]
    model = OnMetal()
    running = engine(model)
    assert slow_memory(running, Path("m")) == ()
    (said,) = slow_memory(running, Path("m"))
    assert said.startswith("one token took 7.00 s")
    assert f"`sudo sysctl iogpu.wired_limit_mb={52 * 1024}` on this Mac" in said
    assert seconds == [] and model.finished == 2


def test_no_token_is_timed_where_nothing_could_be_told(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed, unheld = OnMetal(), OnMetal(wanted=0)
    streamed.weights_elsewhere = True
    for model in (streamed, unheld, FakeModel()):
        assert slow_memory(engine(model), Path("m")) == ()
    monkeypatch.setattr(residency, "is_small", lambda folder, machine: True)
    assert slow_memory(engine(OnMetal()), Path("m")) == ()


def test_a_model_that_fails_is_left_to_the_first_answer(
    seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> float:
        raise KernelError("a kernel is refused")

    monkeypatch.setattr(timed_token, "token_seconds", fails)
    assert slow_memory(engine(OnMetal()), Path("m")) == ()


def test_it_is_told_once_when_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(write_tiny_checkpoint(tmp_path / "m", SMALL))
    asked: list[Path] = []

    def slow(loaded: Engine, of: Path) -> tuple[str, ...]:
        asked.append(of)
        return ("one token took 7 s.",)

    monkeypatch.setattr(residency, "slow_memory", slow)
    opening: Future[Any] = Future()
    opening.set_result(load_model(folder, Options(backend="cpu")))
    opened = OpenedModel(folder.folder, ChatSettings.of(folder, None), opening, folder)
    assert asked == [folder.folder]
    assert "one token took 7 s." in opened.notes() and opened.notes() == []
