"""What a rank's process is to do: one line of JSON on its stdin, since others see its arguments."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cli.options import Options
from dsv4_mlx.peers.hostfile import PORT, PeerHosts, Ring
from dsv4_mlx.peers.watchdog import PEER_TIMEOUT_S


@dataclass(frozen=True)
class RankWork:
    """One rank of one run."""

    rank: int
    ring: Ring
    hosts: tuple[str, ...]
    """What the machines are called, by rank."""
    token: str
    """That only the ranks of this run know."""
    limit_s: float
    """Silence that is too long, see `dsv4_mlx.peers.watchdog`."""
    model: str
    allow_sleep: bool = False
    engine: str | None = None
    backend: str = "auto"
    kv: str = "compact"
    prefill_chunk: int | None = None
    effort_table: str = "2026-04"
    prefix_bytes: int = 0
    snapshot_bytes: int | None = None
    group_backend: str = "ring"
    rdma: tuple[tuple[str | None, ...], ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment of both ranks."""
    served: Mapping[str, Any] | None = None
    """The fields of a `ServiceSettings` where rank 0 serves requests instead of conversations."""
    is_started: bool = False
    """MLX's variables are set already."""

    def to_line(self) -> bytes:
        """For `from_line`."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "RankWork":
        """What `to_line` gave."""
        found: dict[str, Any] = json.loads(line)
        lists = {"ring": found["ring"], "rdma": found["rdma"]}
        tuples = {name: tuple(map(tuple, value)) for name, value in lists.items()}
        return cls(**{**found, **tuples, "hosts": tuple(found["hosts"])})

    @property
    def other(self) -> str:
        """The other rank, for sentences."""
        return f"rank {1 - self.rank} ({self.hosts[1 - self.rank]})"

    def of_rank(self, rank: int, model: str = "") -> "RankWork":
        """The same for another rank, whose folder may lie elsewhere."""
        return replace(self, rank=rank, model=model or self.model)


def limit_of(options: Options) -> float:
    """Seconds of silence after which the other rank is given up."""
    return float(options.peer_timeout or PEER_TIMEOUT_S)


def work_of(hosts: PeerHosts, options: Options, token: str) -> RankWork:
    """Rank 0's work in a run that the terminal starts, but for the model."""
    return RankWork(
        rank=0,
        ring=hosts.ring(options.port or PORT),
        hosts=tuple(host.ssh for host in hosts.hosts),
        token=token,
        limit_s=limit_of(options),
        model="",
        allow_sleep=options.allow_sleep,
        engine=options.engine,
        backend=options.backend or "auto",
        kv=options.kv or "compact",
        prefill_chunk=options.prefill_chunk,
        group_backend=hosts.backend,
        rdma=tuple(host.rdma for host in hosts.hosts) if hosts.backend == "jaccl" else (),
        variables=dict(hosts.variables),
    )
