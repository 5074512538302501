"""Hostfiles for tests, and the processes of ranks that a terminal started."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tests.peers.meetings import free_ring

HERE = "127.0.0.1"
WAIT_S = 60.0


def hostfile(folder: Path, worker: str = HERE, **keys: str) -> Path:
    """A file that names this machine and `worker`."""
    path = folder / "hosts.json"
    hosts = [{"ssh": HERE, "ips": [HERE]}, {"ssh": worker, "ips": [HERE], **keys}]
    path.write_text(json.dumps({"backend": "ring", "hosts": hosts}), encoding="utf-8")
    return path


# The worker's "ssh", which asks for no password and goes nowhere.
_SSH = """#!/bin/sh
echo "$@" >> "$HOME/asked"
while [ "$1" != -- ]; do shift; done
shift 2
exec sh -c "$*"
"""


def with_ssh(home: Path) -> dict[str, str]:
    """Variables under which `ssh` starts on this machine what it is asked for."""
    _program(home / "ssh", _SSH)
    return {"PATH": f"{home}:{os.environ['PATH']}"}


def worker_that(home: Path, does: str) -> str:
    """The Python of a worker in which `does` is done before it begins, to stand in a hostfile."""
    text = f"import os, runpy, signal, sys\n{does}\n"
    text += "runpy.run_module(sys.argv[3], run_name='__main__')\n"
    file = home / "worker.py"
    file.write_text(text)
    own = f'#!/bin/sh\nexec {sys.executable} {file} "$@"\n'
    return str(_program(home / "worker-python", own))


def _program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def hosts_options(folder: Path, worker: str = HERE, **keys: str) -> list[str]:
    """Options of a run over that file on free ports."""
    port = free_ring()[0][0].rpartition(":")[2]
    return ["--hosts", str(hostfile(folder, worker, **keys)), "--port", port]


def ranks_of(terminal: int) -> list[int]:
    """The processes of ranks below the process `terminal`, rank 0 first."""
    listed = subprocess.run(
        ["ps", "-e", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}
    return sorted(
        int(pid)
        for pid, _, args in rows
        if "-m cli.ranks.rank_program" in args and terminal in ancestors(int(pid), parents)
    )


def ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    found = []
    while (pid := parents.get(pid, 0)) > 1:
        found.append(pid)
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    """Until something holds that another process does."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "it does not become so"
        time.sleep(0.05)


def all_gone(pids: list[int]) -> None:
    """Wait until none of the processes is left; the system says when one ends."""
    for pid in pids:
        with suppress(ProcessLookupError):
            assert _ends(pid), f"process {pid} does not end"


def _ends(pid: int) -> bool:
    """Whether a process, which need not be a child, ends in time; ProcessLookupError for none."""
    if sys.platform == "darwin":
        exits = select.kevent(
            pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT
        )
        with closing(select.kqueue()) as events:
            return bool(events.control([exits], 1, WAIT_S))
    process = os.pidfd_open(pid)
    try:
        return bool(select.select([process], [], [], WAIT_S)[0])
    finally:
        os.close(process)


def kill(pid: int) -> None:
    """End a process as a machine ends that loses its power."""
    os.kill(pid, signal.SIGKILL)
