"""Who takes part: the file that `mlx.distributed_config` writes, and the ring that MLX reads.

Both are JSON of MLX's own (`mlx._distributed_utils.common.Hostfile`, `MLX_HOSTFILE` of the ring).
A host may have two keys more here, `python` and `model`, where these lie elsewhere than on the Mac
at which one types.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dsv4_mlx.errors import UsageError
from dsv4_mlx.files.documents import DocumentError, content_of, parse_json
from dsv4_mlx.files.paths import printable

RANKS = 2
PORT = 32323
"""The first port, as `mlx.launch` has it: one per address of a rank, then the handshake's."""
LOCAL = "127.0.0.1"
BACKENDS = ("ring", "jaccl")
# A kernel that spins until the network answers can wedge the GPU (mlx issues 3830 and 4005).
LEFT_OUT = ("MLX_METAL_FAST_SYNCH",)
"""Variables that no rank gets, wherever they are set."""

Ring = tuple[tuple[str, ...], ...]
"""For each rank the `address:port`s it listens on."""


@dataclass(frozen=True)
class PeerHost:
    """One machine; rank 0 is the one at which one types."""

    ssh: str
    """What ssh calls it; 127.0.0.1 is this machine, without ssh."""
    addresses: tuple[str, ...]
    rdma: tuple[str | None, ...] = ()
    python: str = ""
    model: str = ""

    @property
    def is_local(self) -> bool:
        """Whether its rank is a plain process here."""
        return self.ssh == LOCAL


@dataclass(frozen=True)
class PeerHosts:
    """The two machines of a file."""

    hosts: tuple[PeerHost, ...]
    backend: str = "ring"
    variables: Mapping[str, str] = field(default_factory=dict)

    def ring(self, port: int) -> Ring:
        """Where each rank listens when `port` is the first one."""
        numbers = iter(range(port, 1 << 16))
        return tuple(
            tuple(f"{address}:{next(numbers)}" for address in host.addresses) for host in self.hosts
        )


def read_hosts(path: Path) -> PeerHosts:
    """The machines that the file at `path` names; UsageError, a sentence, where it names others
    than two or is none."""
    found = _document(path)
    table: Mapping[str, Any] = {"hosts": found} if isinstance(found, list) else found
    hosts = table.get("hosts") if isinstance(table, Mapping) else None
    if not isinstance(hosts, list) or not all(isinstance(host, Mapping) for host in hosts):
        raise UsageError(f"{printable(str(path))} has no list of hosts; {_CURE}.")
    _require_two(path, len(hosts))
    backend = table.get("backend") or "ring"
    if backend not in BACKENDS:
        raise UsageError(
            f"{printable(str(path))} asks for the backend {backend!r}, expected "
            f"{' or '.join(BACKENDS)}."
        )
    read = PeerHosts(tuple(_host(path, host) for host in hosts), backend, _variables(table))
    if backend == "jaccl" and not (read.hosts[0].rdma[1:] and read.hosts[1].rdma[:1]):
        raise UsageError(f"{printable(str(path))} names no RDMA devices for jaccl; {_CURE}.")
    return read


def read_ring(path: Path) -> Ring:
    """What `MLX_HOSTFILE` names: for each rank its `address:port`s; UsageError as `read_hosts`."""
    found = _document(path)
    if not isinstance(found, list) or not all(map(_is_addresses, found)):
        raise UsageError(
            f"{printable(str(path))} is no hostfile of MLX, which is "
            '[["address:port"], ["address:port"]] with one list for each rank.'
        )
    _require_two(path, len(found))
    return tuple(tuple(addresses) for addresses in found)


def ring_text(ring: Ring) -> str:
    """The content of `MLX_HOSTFILE`."""
    return json.dumps(ring)


def split_address(text: str) -> tuple[str, int]:
    """`address:port` as its parts."""
    address, _, port = text.rpartition(":")
    return address, int(port)


def meeting_place(ring: Ring) -> tuple[str, int]:
    """Address and port of the handshake: rank 0's first address, the port after all of MLX's."""
    ports = [split_address(one)[1] for addresses in ring for one in addresses]
    return split_address(ring[0][0])[0], max(ports) + 1


_CURE = "make it with mlx.distributed_config"


def _document(path: Path) -> Any:
    try:
        return parse_json(content_of(path))
    except DocumentError as error:
        raise UsageError(f"{printable(str(path))} {error}; {_CURE}.") from error
    except OSError as error:
        raise UsageError(
            f"the hostfile {printable(str(path))} cannot be read: {error.strerror}; {_CURE}."
        ) from error


def _require_two(path: Path, count: int) -> None:
    if count != RANKS:
        raise UsageError(
            f"{printable(str(path))} names {count} machine{'' if count == 1 else 's'}; a model "
            "runs on exactly two."
        )


def _host(path: Path, host: Mapping[str, Any]) -> PeerHost:
    ssh, addresses = host.get("ssh"), host.get("ips", [])
    texts = [ssh, *addresses] if isinstance(addresses, list) else [None]
    if not all(isinstance(text, str) and text for text in texts) or not addresses:
        raise UsageError(
            f'{printable(str(path))}: a host needs "ssh", its name, and "ips", a list of its '
            f"addresses; {_CURE}."
        )
    assert isinstance(ssh, str)
    if ssh.startswith("-"):
        raise UsageError(f"{printable(str(path))}: {ssh!r} is no name of a host.")
    python, model = (str(host.get(key) or "") for key in ("python", "model"))
    return PeerHost(ssh, tuple(addresses), tuple(host.get("rdma") or ()), python, model)


def _variables(table: Mapping[str, Any]) -> dict[str, str]:
    """`envs`, entries NAME=VALUE, but for what must stay off."""
    pairs = [str(one).partition("=") for one in table.get("envs") or ()]
    return {name: value for name, _, value in pairs if name and name not in LEFT_OUT}


def _is_addresses(found: object) -> bool:
    return isinstance(found, list) and bool(found) and all(map(_is_address, found))


def _is_address(found: object) -> bool:
    address, _, port = found.rpartition(":") if isinstance(found, str) else ("", "", "")
    return bool(address) and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16
