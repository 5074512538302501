"""Starting ranks, and the sentence where that fails: rank 0 and ssh are small scripts here."""

import stat
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cli.ranks import processes
from cli.ranks.failures import TraceFile
from cli.ranks.rank_work import RankWork
from cli.ranks.starting import RankPair
from dsv4_mlx.errors import PipelineError
from dsv4_mlx.peers.hostfile import PeerHost

WORK = RankWork(
    rank=0,
    ring=(("127.0.0.1:4000",), ("127.0.0.1:4001",)),
    hosts=("127.0.0.1", "mini.local"),
    token="secret",
    limit_s=30.0,
    model="",
)
WAITS = "cat >/dev/null; :"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`program(name, text)`: a shell script, found by that name; `python` is rank 0's."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        if name == "python":
            monkeypatch.setattr(sys, "executable", str(path))
        return path

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return write


def clock() -> Iterator[float]:
    """Ten seconds pass whenever somebody looks."""
    return (10.0 * step for step in count())


def pair(worker: str = "mini.local", **keys: str) -> RankPair:
    hosts = (PeerHost("127.0.0.1", ("127.0.0.1",)), PeerHost(worker, ("127.0.0.1",), **keys))
    return RankPair(hosts, WORK, clock=clock().__next__)


def refusal(made: RankPair) -> str:
    with pytest.raises(PipelineError) as caught:
        made.open("/pro", "2026-04")
    assert made._processes == []  # none is left
    return str(caught.value)


@pytest.mark.parametrize(
    ("ssh", "found"),
    [
        (
            "echo 'user@mini.local: Permission denied (publickey).' >&2; exit 255",
            "rank 1 (mini.local) cannot be started: user@mini.local: Permission denied (publickey);"
            " switch on Remote Login there and let ssh in with a key (docs/two-macs.md goes",
        ),
        (
            "echo 'ssh: connect to host mini.local port 22: No route to host' >&2; exit 255",
            "No route to host; on a Mac allow the terminal under System Settings > Privacy & "
            "Security > Local Network (docs/",
        ),
        (
            "echo 'sh: /opt/python: No such file or directory' >&2; exit 127",
            'name its Python in the hostfile, "python": "/path/to/python" (docs/',
        ),
        (
            "echo \"/usr/bin/python: No module named 'cli'\" >&2; exit 1",
            "rank 1 (mini.local) cannot be started: /usr/bin/python: No module named 'cli'; install"
            " dsv4-mlx there, or name its Python in the hostfile",
        ),
        (
            "echo 'Traceback (most recent call last):' >&2; echo 'KeyError: 3' >&2; exit 1",
            "rank 1 (mini.local) ended: KeyError: 3.",
        ),
        ("exit 3", "it ended with status 3; switch on Remote Login"),
    ],
)
def test_a_worker_that_cannot_be_started_says_why(program, ssh: str, found: str) -> None:
    program("python", WAITS)
    program("ssh", ssh)
    assert found in refusal(pair())


def test_the_worker_is_asked_for_by_ssh_and_gets_its_work_on_stdin(program, tmp_path: Path) -> None:
    program("python", WAITS)
    program("ssh", f'echo "$@" > {tmp_path}/asked; head -n 1 > {tmp_path}/work; exit 1')
    refusal(pair(python="/opt/dsv4/bin/python", model="/Volumes/pro"))
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-T -o BatchMode=yes -o ConnectTimeout=10")
    command = "exec env -u MLX_METAL_FAST_SYNCH /opt/dsv4/bin/python -P -m cli.ranks.rank_program"
    assert asked.endswith(f"-- mini.local {command}\n") and "secret" not in asked
    work = RankWork.from_line((tmp_path / "work").read_bytes())
    assert (work.rank, work.model, work.token) == (1, "/Volumes/pro", "secret")
    assert work.ring == WORK.ring and work.hosts == WORK.hosts


def test_variables_of_the_hostfile_reach_both(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_METAL_FAST_SYNCH", "1")
    said = "$DSV4_BACKEND $MLX_HOPS$MLX_METAL_FAST_SYNCH"
    program("python", f'echo "{said}" > {tmp_path}/rank_0; cat >/dev/null; :')
    program("ssh", f'echo "$@" > {tmp_path}/asked; exit 1')
    work = replace(WORK, variables={"DSV4_BACKEND": "cpu", "MLX_HOPS": "2; x"})
    hosts = (PeerHost("127.0.0.1", ("127.0.0.1",)), PeerHost("mini.local", ("127.0.0.1",)))
    refusal(RankPair(hosts, work, clock=clock().__next__))
    assert (tmp_path / "rank_0").read_text() == "cpu 2; x\n"
    asked = (tmp_path / "asked").read_text()
    assert (
        "-- mini.local exec env -u MLX_METAL_FAST_SYNCH DSV4_BACKEND=cpu 'MLX_HOPS=2; x' " in asked
    )


def test_traces_of_ranks_are_kept_and_nothing_else_is(program, tmp_path: Path) -> None:
    program("python", "echo 'low on memory' >&2; cat >/dev/null; :")
    trace = "Traceback (most recent call last):\nKeyError: 3\n"
    program("ssh", f"echo 'hm' >&2; printf '{trace}' >&2; exit 1")
    traces = TraceFile(tmp_path / "kept" / "ranks.log")
    made = pair()
    made._traces = traces
    assert "KeyError: 3" in refusal(made)
    kept = tmp_path / "kept" / "ranks.log"
    assert kept.read_text() == trace and kept.stat().st_mode & 0o777 == 0o600
    refusal(made)
    assert kept.read_text() == 2 * trace


def test_a_worker_on_this_machine_needs_no_ssh(program) -> None:
    program("python", "head -n 1 | grep -q '\"rank\": 0' && { cat >/dev/null; exit 0; }; exit 9")
    program("ssh", "echo 'ssh is asked' >&2")
    assert refusal(pair("127.0.0.1")) == "rank 1 (mini.local) ended: it ended with status 9."


def test_without_ssh_there_is_a_sentence(program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("python", WAITS)
    monkeypatch.setattr(processes, "_SSH", ("no-such-ssh",))
    assert "cannot be started: ssh: No such file" in refusal(pair())


@pytest.mark.parametrize(
    ("rank_0", "found"),
    [
        (
            "kill -ALRM $$",
            "rank 1 (mini.local) was met, but MLX made no connection",
        ),
        (
            "kill -KILL $$",
            "rank 0 (this machine) was ended by SIGKILL; see ",
        ),
        ("echo 'no memory' >&2; exit 1", "rank 0 (this machine) ended: no memory."),
    ],
)
def test_a_rank_0_that_ends_says_why(program, rank_0: str, found: str) -> None:
    program("python", f"head -n 1 >/dev/null; {rank_0}")
    program("ssh", WAITS)
    assert refusal(pair()).startswith(found)


def test_a_process_that_hears_nothing_is_ended(program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PATIENCE_S", 0.05)
    program("python", "trap '' TERM; echo up >&2; while :; do read line; done")
    rank = processes.start(WORK, PeerHost("127.0.0.1", ("127.0.0.1",)), {})
    while not rank.said:
        assert rank.status is None
    rank.end()
    assert rank.status == -9
