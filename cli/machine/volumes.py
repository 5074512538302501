"""Which volume a folder lies on, and of what kind it is, as the system tells."""

import os
import plistlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from xml.parsers.expat import ExpatError

from cli.machine.machine import ThisMachine

VolumeKind = Literal["internal", "external", "network", "memory", "unknown"]
_NETWORKS = {
    "smbfs": "SMB", "cifs": "SMB", "smb3": "SMB", "nfs": "NFS", "nfs4": "NFS", "afpfs": "AFP",
    "webdav": "WebDAV", "fuse.davfs": "WebDAV", "fuse.sshfs": "SSH", "9p": "9P", "ceph": "Ceph",
}  # fmt: skip
_IN_MEMORY = ("tmpfs", "ramfs")
_MAC_MOUNT = re.compile(r"(.+?) on (/.*) \((\w+)[,)]")


class VolumeProbe(Protocol):
    """Where facts come from; a test gives others."""

    system: str

    def text(self, path: str) -> str | None:
        """A small file of the system, None when it cannot be read."""
        ...

    def output(self, *command: str) -> bytes | None:
        """What a program of the system prints, None when it fails."""
        ...

    def device_number(self, path: str) -> int | None:
        """`st_dev` of a path, None when it is not there."""
        ...


class ThisSystem(ThisMachine):
    """The facts of this machine."""

    def output(self, *command: str) -> bytes | None:
        """What a program of the system prints."""
        try:
            done = subprocess.run(command, capture_output=True, timeout=5, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def device_number(self, path: str) -> int | None:
        """`st_dev` of a path."""
        try:
            return os.stat(path).st_dev
        except OSError:
            return None


@dataclass(frozen=True)
class Volume:
    """A mounted file system."""

    name: str
    """What people know it by: its own name, or where it is mounted."""
    file_system: str
    kind: VolumeKind
    connection: str = ""
    """How it is attached: SMB, USB, Apple Fabric; "" where nobody tells."""
    spins: bool = False
    """Whether it is a disk with moving heads."""

    def sentence(self) -> str:
        """For people."""
        kind = {"unknown": ""}.get(self.kind, self.kind)
        words = [self.file_system, kind, self.connection, "a hard disk" if self.spins else ""]
        return f"{self.name} ({', '.join(filter(None, words))})"


def volume_of(folder: Path, probe: VolumeProbe | None = None) -> Volume | None:
    """The volume that `folder` lies on; None where the system does not tell."""
    probe = probe or ThisSystem()
    path = os.path.realpath(folder)
    if probe.system == "Darwin":
        return _on_mac(path, probe)
    return _on_linux(path, probe)


@dataclass(frozen=True)
class _Mount:
    source: str
    place: str
    file_system: str


def _mount_of(path: str, mounts: Iterator[_Mount], probe: VolumeProbe) -> _Mount | None:
    """The mount with the device of `path`, of several the one furthest down; without any that is
    so, the one furthest down above `path`."""
    device = probe.device_number(path)
    known = list(mounts)
    same = [one for one in known if device is not None and probe.device_number(one.place) == device]
    above = [one for one in known if _is_above(one.place, path)]
    choice = [one for one in same if one in above] or same or above
    return max(choice, key=lambda one: len(one.place), default=None)


def _is_above(place: str, path: str) -> bool:
    return place == "/" or path == place or path.startswith(f"{place}/")


def _on_mac(path: str, probe: VolumeProbe) -> Volume | None:
    listed = (probe.output("/sbin/mount") or b"").decode(errors="replace")
    mount = _mount_of(path, _mac_mounts(listed), probe)
    if mount is None:
        return None
    if network := _NETWORKS.get(mount.file_system):
        return Volume(mount.place, mount.file_system, "network", network)
    facts = _disk_facts(probe.output("/usr/sbin/diskutil", "info", "-plist", mount.source))
    internal = facts.get("Internal")
    kind: VolumeKind = "unknown" if internal is None else "internal" if internal else "external"
    name, bus = facts.get("VolumeName"), facts.get("BusProtocol")
    return Volume(
        name if isinstance(name, str) and name else mount.place,
        mount.file_system,
        kind,
        bus if isinstance(bus, str) else "",
        facts.get("SolidState") is False,
    )


def _mac_mounts(listed: str) -> Iterator[_Mount]:
    for line in listed.splitlines():
        if found := _MAC_MOUNT.match(line):
            yield _Mount(*found.groups())


def _disk_facts(printed: bytes | None) -> dict[str, object]:
    try:
        found = plistlib.loads(printed or b"")
    except (plistlib.InvalidFileException, ExpatError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _on_linux(path: str, probe: VolumeProbe) -> Volume | None:
    mount = _mount_of(path, _linux_mounts(probe.text("/proc/self/mountinfo") or ""), probe)
    if mount is None:
        return None
    if network := _NETWORKS.get(mount.file_system):
        return Volume(mount.place, mount.file_system, "network", network)
    if mount.file_system in _IN_MEMORY:
        return Volume(mount.place, mount.file_system, "memory")
    block = _block(probe.device_number(mount.place), probe.text)
    return Volume(
        mount.place,
        mount.file_system,
        "external" if block("removable") == "1" else "unknown",
        spins=block("queue/rotational") == "1",
    )


def _linux_mounts(listed: str) -> Iterator[_Mount]:
    for line in listed.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) > 4 and len(kind) > 1:
            place = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
            yield _Mount(kind[1], place, kind[0])


def _block(device: int | None, text: Callable[[str], str | None]) -> Callable[[str], str]:
    """What the kernel says of a block device, by the name of a file; of a partition its disk's."""

    def fact(name: str) -> str:
        if device is None:
            return ""
        folder = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
        return (text(f"{folder}/{name}") or text(f"{folder}/../{name}") or "").strip()

    return fact
