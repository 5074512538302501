"""The options about two machines."""

from collections.abc import Callable
from typing import Any

from cli.option_values import whole
from dsv4_mlx.files.paths import user_path
from dsv4_mlx.peers.hostfile import PORT
from dsv4_mlx.peers.watchdog import PEER_TIMEOUT_S


def add_the_machines(add: Callable[..., Any], port_option: str = "--port") -> None:
    """Which two machines share a model; a server has a `--port` of its own."""
    add(
        "--hosts",
        type=user_path,
        metavar="FILE",
        help="run the model on the two Macs of this hostfile (mlx.distributed_config writes one)",
    )
    add(
        port_option,
        type=whole(1024, 65000),
        metavar="N",
        help=f"with --hosts: the first of the ports that are used; {PORT}",
    )
    add(
        "--peer-timeout",
        type=whole(1, 86_400),
        metavar="S",
        help=f"seconds of silence after which the other Mac is given up; {PEER_TIMEOUT_S:.0f}",
    )
