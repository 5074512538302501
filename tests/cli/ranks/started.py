"""Two ranks that somebody starts by hand, as two processes of this machine."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dsv4_mlx.peers.hostfile import Ring, ring_text
from tests.peers.meetings import free_ring

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ended:
    """How a rank ended and what it wrote."""

    status: int
    stdout: str
    stderr: str


class Ranks:
    """Starts ranks of one run in the folder `home`."""

    def __init__(self, home: Path, ring: Ring | None = None) -> None:
        self._home = home
        self._file = home / "ring.json"
        self._file.write_text(ring_text(ring or free_ring()), encoding="utf-8")

    def start(self, rank: int, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """`dsv4-chat` as one of the ranks; nothing is ever written to its stdin, which stays
        open."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DSV4_HOME": str(self._home / "kept"),
            "MLX_RANK": str(rank),
            "MLX_HOSTFILE": str(self._file),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | variables,
            cwd=self._home,
        )

    def run(self, first: list[str], second: list[str] | None = None) -> tuple[Ended, Ended]:
        """Both with these arguments, ended."""
        processes = [self.start(0, *first), self.start(1, *(first if second is None else second))]
        return ended(processes[0]), ended(processes[1])


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a rank's end; its stdin is open all the while."""
    status = process.wait(timeout=120)
    with process:
        assert process.stdout is not None and process.stderr is not None
        return Ended(status, process.stdout.read(), process.stderr.read())


def script(home: Path, *replies: object) -> str:
    """The option for a model that says `replies`."""
    file = home / "script.json"
    file.write_text(json.dumps({"replies": list(replies)}), encoding="utf-8")
    return f"fake:{file}"
