"""MLX's own connection of two ranks: variables, errors, and the alarm that ends its wait."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dsv4_mlx import forming
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.forming import RankFolder, join
from dsv4_mlx.peers.facts import refusal
from dsv4_mlx.peers.hostfile import ring_text
from dsv4_mlx.testing.checkpoints import write_tiny_checkpoint
from tests.peers.meetings import free_ring

NAMES = ("MLX_RANK", "MLX_HOSTFILE", "MLX_JACCL_COORDINATOR", "MLX_IBV_DEVICES")


class Group:
    """A group of so many ranks."""

    def __init__(self, size: int = 2) -> None:
        self._size = size

    def size(self) -> int:
        return self._size


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], dict[str, str]]:
    """`told(result)`: `init` gives `result`, or raises it; what MLX found in the environment then,
    files by their content."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def expect(result: Any) -> dict[str, str]:
        found: dict[str, str] = {}

        def init(*, strict: bool, backend: str) -> Any:
            assert strict
            found["backend"] = backend
            for name in NAMES:
                if (value := os.environ.get(name)) is not None:
                    is_file = value.startswith("/")
                    found[name] = Path(value).read_text("utf-8") if is_file else value
            found["alarm"] = str(signal.alarm(0))
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(mx.distributed, "init", init)
        return found

    return expect


def test_the_ring_is_told_by_a_file_that_is_gone_afterwards(told) -> None:
    ring, group = free_ring(), Group()
    found = told(group)
    assert join(1, ring, 29.5) is group
    assert found == {
        "backend": "ring",
        "MLX_RANK": "1",
        "MLX_HOSTFILE": ring_text(ring),
        "alarm": "30",
    }
    assert not {*NAMES} & {*os.environ} and signal.alarm(0) == 0


def test_jaccl_is_told_devices_and_a_coordinator(told) -> None:
    found = told(Group())
    join(0, (("10.0.0.1:4000",),) * 2, 30, backend="jaccl", rdma=((None, "a"), ("b", None)))
    assert found["MLX_JACCL_COORDINATOR"] == "10.0.0.1:4000" and found["backend"] == "jaccl"
    assert json.loads(found["MLX_IBV_DEVICES"]) == [[None, "a"], ["b", None]]


def test_variables_that_a_launcher_set_stay(told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_RANK", "7")
    found = told(Group())
    join(0, free_ring(), 30, is_started=True)
    assert found["MLX_RANK"] == os.environ["MLX_RANK"] == "7"


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (RuntimeError("[ring] Couldn't connect\n(error: 111)."), r"\(error: 111\)\); let both"),
        (Group(3), "MLX connected 3 ranks, expected 2"),
    ],
)
def test_what_mlx_cannot_do_is_a_sentence(told, result: object, sentence: str) -> None:
    told(result)
    with pytest.raises(PipelineError, match=sentence):
        join(0, free_ring(), 30)
    assert signal.alarm(0) == 0


def test_an_alarm_ends_mlxs_wait_for_a_rank_that_is_not_there() -> None:
    program = f"from dsv4_mlx.forming import join; join(0, {free_ring()!r}, 1)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGALRM


def prepared(folder: Path, rank: int) -> RankFolder:
    return forming.prepare(folder, rank, "cpu", "compact")


def test_two_ranks_of_one_folder_share_its_layers(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    whole = prepared(tmp_path, 0).held
    both = [prepared(tmp_path, rank).beside(whole) for rank in (0, 1)]
    facts = [one.facts("1.0", "studio", "M3", 1 << 40) for one in both]
    assert refusal(facts) == ""
    assert facts[1].layers[0] == 0 and facts[0].layers[1] == whole[1] == facts[0].layer_count
    assert "may use 0.0 GiB" in refusal([one.facts("1.0", "studio", "M3", 1) for one in both])


def test_the_cut_is_where_the_other_folder_ends(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    count = prepared(tmp_path, 0).held[1]
    assert prepared(tmp_path, 0).beside((0, 1)).own == range(1, count)
    assert prepared(tmp_path, 1).beside((2, count)).own == range(2)
