"""Two ranks that MLX's launcher or a person started: one answer, which is rank 0's."""

import json
import signal
from pathlib import Path

import pytest

from dsv4_mlx.peers.hostfile import ring_text
from tests.cli.ranks.started import Ranks, ended, script
from tests.cli.running import run

LONG = {"text": "One word after the other. ", "repeat": 400, "delay_ms": 20}


def test_rank_0_answers_without_stdin_and_rank_1_is_silent(tmp_path: Path) -> None:
    first, second = Ranks(tmp_path).run(["--engine", script(tmp_path, "Both."), "-p", "hello"])
    assert (first.status, first.stdout) == (0, "Both.\n")
    assert "a rank that is silent for 30 s, or 4 chunks, is given up" in first.stderr
    assert (second.status, second.stdout) == (0, "")


@pytest.mark.slow
def test_a_rank_that_is_alone_is_told_before_a_token(tmp_path: Path) -> None:
    engine = ["--engine", script(tmp_path, "Both."), "-p", "hello", "--json"]
    alone = Ranks(tmp_path).start(0, *engine, "--peer-timeout", "1")
    found = ended(alone)
    assert found.status == 1
    sentence = json.loads(found.stdout)["message"]
    assert sentence.startswith("rank 1 (127.0.0.1) did not come to 127.0.0.1:")
    assert sentence in found.stderr


def test_a_rank_that_died_is_named_with_status_1(tmp_path: Path) -> None:
    ranks, options = Ranks(tmp_path), ["--engine", script(tmp_path, LONG), "-p", "hello"]
    first, second = ranks.start(0, *options), ranks.start(1, *options)
    assert first.stdout is not None
    assert first.stdout.read(8) == "One word"
    second.kill()
    found = ended(first)
    assert found.status == 1
    assert "dsv4-chat: rank 1 (" in found.stderr
    assert ") is gone: its program ended" in found.stderr
    ended(second)


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named_within_the_limit_and_ends_when_it_goes_on(
    tmp_path: Path,
) -> None:
    ranks = Ranks(tmp_path)
    options = ["--engine", script(tmp_path, LONG), "-p", "hello", "--peer-timeout", "3"]
    first, second = ranks.start(0, *options), ranks.start(1, *options)
    assert first.stdout is not None
    assert first.stdout.read(8) == "One word"
    second.send_signal(signal.SIGSTOP)
    found = ended(first)
    second.send_signal(signal.SIGCONT)
    assert found.status == 1 and "has not answered for" in found.stderr
    assert "Traceback" not in found.stderr
    assert ended(second).stdout == ""


@pytest.mark.slow
def test_ranks_of_unlike_settings_are_refused_before_a_token(tmp_path: Path) -> None:
    options = ["--engine", script(tmp_path, "Both."), "-p", "hello"]
    first, second = Ranks(tmp_path).run(options, [*options, "--kv", "bf16"])
    assert first.status == 1 and first.stdout == ""
    assert "has kv compact and rank 1 (" in first.stderr
    assert "has bf16; start both alike." in first.stderr
    assert second.stdout == ""


@pytest.mark.slow
def test_ctrl_c_ends_both(tmp_path: Path) -> None:
    ranks, options = Ranks(tmp_path), ["--engine", script(tmp_path, LONG), "-p", "hello"]
    both = [ranks.start(0, *options), ranks.start(1, *options)]
    assert both[0].stdout is not None
    assert both[0].stdout.read(8) == "One word"
    for rank in both:  # as a terminal does with all that it started
        rank.send_signal(signal.SIGINT)
    first, second = map(ended, both)
    assert first.status == 130 and (second.status, second.stdout) == (0, "")


@pytest.mark.parametrize(
    ("ring", "options", "status", "sentence"),
    [
        ((("127.0.0.1:4000",), ("127.0.0.1:4001",)), [], 2, "answer one message: give -p TEXT"),
        ((("127.0.0.1:4000",),) * 3, ["-p", "x"], 2, "names 3 machines; a model runs on exactly"),
        ((("127.0.0.1:4000",),) * 2, ["--hosts", "x", "-p", "x"], 2, "--hosts starts both ranks"),
        ((("127.0.0.1:4000",),) * 2, ["--expert-memory", "9GiB", "-p", "x"], 2, "two share this"),
        ((("127.0.0.1:4000",),) * 2, ["--expert-trace", "t.csv", "-p", "x"], 2, "two share this"),
        ((("127.0.0.1:4000",),) * 2, ["--draft", "lookup", "-p", "x"], 2, "--draft lookup is for"),
    ],
)
def test_what_cannot_begin_is_told_at_once(
    tmp_path: Path, ring: tuple, options: list[str], status: int, sentence: str
) -> None:
    file = tmp_path / "ring.json"
    file.write_text(ring_text(ring), encoding="utf-8")
    found = run(*options, variables={"MLX_RANK": "0", "MLX_HOSTFILE": str(file)})
    assert found.status == status and sentence in found.stderr


def test_a_third_rank_is_refused(tmp_path: Path) -> None:
    found = run("-p", "x", variables={"MLX_RANK": "2", "MLX_HOSTFILE": "x"})
    assert found.status == 2 and "MLX_RANK is '2'; a model runs on exactly two" in found.stderr


def test_restart_is_for_two_machines(tmp_path: Path) -> None:
    found = run("--engine", script(tmp_path, "x"), typed="/restart\n/quit\n")
    assert "/restart is for two Macs, see --hosts" in found.stderr
