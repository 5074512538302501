"""A network that is nothing but a loopback: Linux gives one to a process that asks."""

import fcntl
import shutil
import socket
import struct
import subprocess
import sys

_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def alone(command: list[str]) -> list[str]:
    """`command` in a network of its own; as it is where that cannot be had."""
    within = [shutil.which("unshare") or "", "--net", "--map-root-user"]
    can = sys.platform == "linux" and within[0]
    if not can or subprocess.run([*within, "true"], capture_output=True).returncode:
        return command
    return [*within, *command]


def is_alone() -> bool:
    """Whether this process sees no network but loopback."""
    return [name for _, name in socket.if_nameindex()] in (["lo"], ["lo0"])


def raise_loopback() -> None:
    """Bring up the loopback of a network of one's own, which begins without."""
    if sys.platform != "linux":
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        name, flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))
        if not flags & _UP:
            fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", name, flags | _UP))
