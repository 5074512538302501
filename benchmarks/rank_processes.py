"""Two processes of this machine as the ranks of a pipeline: MLX's ring on loopback, and a socket.

A program of two machines meets, agrees and watches over sockets of its own; here both ends of one
are handed to the processes when they start.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

RANKS = 2


class SocketControl:
    """Messages with their length before them; see `dsv4_mlx.pipeline.control.Control`."""

    def __init__(self, connection: socket.socket, peer: str) -> None:
        self.peer = peer
        self.sent: list[bytes] = []
        self._connection = connection
        self._file = connection.makefile("rb")

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self._connection.sendall(struct.pack(">I", len(message)) + message)

    def receive(self) -> bytes:
        head = self._file.read(4)
        if len(head) < 4:
            raise EOFError
        return bytes(self._file.read(struct.unpack(">I", head)[0]))

    def guarded(self) -> nullcontext[None]:
        return nullcontext()


class Rank(NamedTuple):
    """What a process has of the pipeline that it is in."""

    group: Any
    control: SocketControl

    @classmethod
    def begun(cls, descriptor: str) -> "Rank":
        """Of the process that `run_ranks` started with this argument."""
        import mlx.core as mx

        group = mx.distributed.init(strict=True, backend="ring")
        connection = socket.socket(fileno=int(descriptor))
        return cls(group, SocketControl(connection, f"rank {1 - group.rank()} (here)"))


def run_ranks(module: str, arguments: Sequence[str], limit_s: float) -> list[str]:
    """Run `python -m MODULE DESCRIPTOR ARGUMENTS` as both ranks to their end; what each printed.

    RuntimeError with what they said on stderr where one failed.
    """
    ends = socket.socketpair()
    with tempfile.TemporaryDirectory() as scratch:
        hostfile = Path(scratch) / "hosts.json"
        hostfile.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(RANKS)]))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(end.fileno()), *arguments],
                env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hostfile)},
                cwd=Path(__file__).parents[1],
                pass_fds=[end.fileno()],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, end in enumerate(ends)
        ]
        for end in ends:
            end.close()
        try:
            said = [process.communicate(timeout=limit_s) for process in processes]
        finally:
            for process in processes:
                process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError("".join(errors for _, errors in said))
    return [output for output, _ in said]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()
