"""Readings of a machine: what a model may use on a Mac, on Linux and in a container."""

import pytest

from cli.machine.machine import ThisMachine, read_machine
from tests.cli.machines import GIB, Linux, linux, mac


def test_a_mac_gives_its_gpu_three_quarters_unless_told_otherwise() -> None:
    machine = mac(128)
    assert (machine.chip, machine.cores, machine.memory) == ("Apple M4 Max", 16, 128 * GIB)
    assert machine.limit("metal") == 96 * GIB
    assert machine.raisable("metal") == 120 * GIB
    assert machine.limit("cpu") == 128 * GIB
    assert mac(128, 110 * 1024).limit("metal") == 110 * GIB


def test_linux_gives_what_it_has() -> None:
    machine = linux(24)
    assert (machine.chip, machine.memory, machine.available) == ("Some CPU", 24 * GIB, 12 * GIB)
    assert machine.limit("cpu") == 24 * GIB
    assert machine.raisable("cpu") is None


V2 = {"/proc/self/cgroup": "0::/user.slice/app\n"}
V1 = {"/proc/self/cgroup": "5:cpu:/x\n4:memory,hugetlb:/docker/abc\n"}
V1_BASE = "/sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({**V2, "/sys/fs/cgroup/user.slice/app/memory.max": "max\n"}, 24),
        ({**V2, "/sys/fs/cgroup/user.slice/app/memory.max": f"{8 * GIB}\n"}, 8),
        ({**V2, "/sys/fs/cgroup/user.slice/memory.max": f"{6 * GIB}\n"}, 6),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}, 4),
        ({"/proc/self/cgroup": "0::/../..\n", "/sys/fs/cgroup/memory.max": f"{4 * GIB}\n"}, 4),
        ({**V2, "/sys/fs/cgroup/memory.max": f"{100 * GIB}\n"}, 24),
        ({**V1, f"{V1_BASE}/docker/abc/memory.limit_in_bytes": f"{2 * GIB}\n"}, 2),
        ({**V1, f"{V1_BASE}/memory.limit_in_bytes": f"{3 * GIB}\n"}, 3),
        ({**V1, f"{V1_BASE}/docker/abc/memory.limit_in_bytes": "9223372036854771712\n"}, 24),
        ({"/proc/self/cgroup": "nonsense"}, 24),
    ],
)
def test_a_container_gives_what_its_control_groups_allow(files: dict[str, str], gib: int) -> None:
    assert linux(24, files).limit("cpu") == gib * GIB


def test_a_card_has_a_memory_of_its_own() -> None:
    from dataclasses import replace

    machine = replace(linux(64), device=80 * GIB)
    assert (machine.limit("cuda"), machine.limit("cpu")) == (80 * GIB, 64 * GIB)


def test_a_system_that_tells_nothing_is_no_error() -> None:
    class Silent(Linux):
        def text(self, path: str) -> str | None:
            return None

    machine = read_machine(Silent(1))
    assert machine.limit("cpu") is None


def test_this_machine_tells_its_memory() -> None:
    machine = read_machine()
    assert machine.memory is not None and machine.memory > 1 << 28
    assert ThisMachine().text("/no/such/file") is None
