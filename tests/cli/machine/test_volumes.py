"""Volumes, from what macOS and Linux print."""

import plistlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from cli.machine.volumes import Volume, volume_of

MOUNTS = b"""/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
devfs on /dev (devfs, local, nobrowse)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse, protect)
/dev/disk6s1 on /Volumes/Extreme SSD (exfat, local, nodev, nosuid, noowners)
//anna@nas._smb._tcp.local/models on /Volumes/models (smbfs, nodev, nosuid, mounted by anna)
nas:/export on /Volumes/nfs (nfs, nodev, nosuid)
"""
DISKS: Mapping[str, Mapping[str, object]] = {
    "/dev/disk3s5": {"VolumeName": "Data", "Internal": True, "BusProtocol": "Apple Fabric",
                     "SolidState": True},
    "/dev/disk6s1": {"VolumeName": "Extreme SSD", "Internal": False, "BusProtocol": "USB",
                     "SolidState": False},
}  # fmt: skip
MOUNTINFO = r"""22 1 254:1 / / rw - ext4 /dev/vda1 rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 22 8:33 / /media/my\040disk rw shared:1 - exfat /dev/sdc1 rw
32 22 0:60 / /srv/models rw - cifs //nas/models rw
33 22 8:1 / /old rw - ext4 /dev/sda1 rw
"""


class Probe:
    """A machine of a name, whose paths lie on devices by their beginnings."""

    def __init__(self, system: str, devices: Mapping[str, int]) -> None:
        self.system, self._devices = system, devices

    def text(self, path: str) -> str | None:
        return {
            "/proc/self/mountinfo": MOUNTINFO,
            "/sys/dev/block/8:33/../removable": "1\n",
            "/sys/dev/block/8:1/../queue/rotational": "1\n",
        }.get(path)

    def output(self, *command: str) -> bytes | None:
        if command == ("/sbin/mount",):
            return MOUNTS
        facts = DISKS.get(command[-1])
        return None if facts is None else plistlib.dumps(dict(facts))

    def device_number(self, path: str) -> int | None:
        names = [name for name in self._devices if path == name or path.startswith(f"{name}/")]
        return self._devices[max(names, key=len)] if names else None


MAC = Probe("Darwin", {"/Users": 5, "/System/Volumes/Data": 5, "/Volumes/Extreme SSD": 6,
                       "/Volumes/models": 7, "/Volumes/nfs": 8})  # fmt: skip
LINUX = Probe("Linux", {"/home": 65025, "/tmp": 25, "/media/my disk": (8 << 8) + 33,
                        "/srv/models": 60, "/old": (8 << 8) + 1})  # fmt: skip


@pytest.mark.parametrize(
    ("path", "found", "sentence"),
    [
        ("/Users/anna/models/flash", Volume("Data", "apfs", "internal", "Apple Fabric"),
         "Data (apfs, internal, Apple Fabric)"),
        ("/Volumes/Extreme SSD/flash", Volume("Extreme SSD", "exfat", "external", "USB", True),
         "Extreme SSD (exfat, external, USB, a hard disk)"),
        ("/Volumes/models/flash", Volume("/Volumes/models", "smbfs", "network", "SMB"),
         "/Volumes/models (smbfs, network, SMB)"),
        ("/Volumes/nfs/flash", Volume("/Volumes/nfs", "nfs", "network", "NFS"),
         "/Volumes/nfs (nfs, network, NFS)"),
    ],
)  # fmt: skip
def test_a_mac_names_volume_and_kind(path: str, found: Volume, sentence: str) -> None:
    volume = volume_of(Path(path), MAC)
    assert volume == found and volume is not None and volume.sentence() == sentence


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/home/anna/flash", Volume("/", "ext4", "unknown")),
        ("/media/my disk/flash", Volume("/media/my disk", "exfat", "external")),
        ("/srv/models/flash", Volume("/srv/models", "cifs", "network", "SMB")),
        ("/old/flash", Volume("/old", "ext4", "unknown", spins=True)),
    ],
)
def test_linux_names_volume_and_kind(path: str, found: Volume) -> None:
    assert volume_of(Path(path), LINUX) == found


def test_a_link_is_followed_to_its_volume(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/srv/models/flash")
    volume = volume_of(tmp_path / "link", LINUX)
    assert volume is not None and volume.connection == "SMB"


def test_a_system_that_tells_nothing_is_no_error() -> None:
    class Silent(Probe):
        def text(self, path: str) -> str | None:
            return None

        def output(self, *command: str) -> bytes | None:
            return None

    assert volume_of(Path("/x"), Silent("Darwin", {})) is None
    assert volume_of(Path("/x"), Silent("Linux", {})) is None


def test_this_machines_own_folder_lies_somewhere(tmp_path: Path) -> None:
    found = volume_of(tmp_path)
    assert found is not None and found.file_system
