"""Two ranks in one process, each on a thread, with waits of milliseconds."""

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from dsv4_mlx.peers.facts import RankFacts
from dsv4_mlx.peers.hostfile import Ring
from dsv4_mlx.peers.meeting import Greeting

SOON_S = 0.2
"""How long a rank is waited for that does not come."""
LONG_S = 30.0
"""How long one is waited for that comes."""

FACTS = RankFacts(
    rank=0,
    host="studio",
    version="1.0",
    mlx="0.32.4",
    backend="metal",
    gpu="Apple M3 Ultra",
    memory=512 << 30,
    needed=400 << 30,
    layers=(0, 30),
    held=(0, 61),
    layer_count=61,
    fingerprint="ab" * 32,
    recipe="native",
)


def both(**changes: Any) -> list[RankFacts]:
    """Facts of two ranks that fit, but for `changes` of the second."""
    return [FACTS, replace(FACTS, rank=1, host="mini", layers=(30, 61), **changes)]


def free_ring() -> Ring:
    """Ports of this machine that nobody uses, the handshake's among them."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        if port < 65000 and all(is_free(port + step) for step in range(3)):
            return (f"127.0.0.1:{port}",), (f"127.0.0.1:{port + 1}",)


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def greeting(rank: int, ring: Ring, **changes: Any) -> Greeting:
    """What a rank says first."""
    hosts = ("studio", "mini")
    mine = Greeting(rank, ring, "1.0", hosts[rank], hosts[1 - rank], "token", LONG_S)
    return replace(mine, pause_s=0.005, beat_s=0.02, **changes)


def side_by_side(*jobs: Callable[[], Any]) -> list[Future]:
    """The jobs, each on a thread of its own, all ended."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [threads.submit(job) for job in jobs]
