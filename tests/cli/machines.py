"""Machines for tests: readings as the systems give them."""

from collections.abc import Mapping

from cli.machine.machine import Machine, read_machine

GIB = 1 << 30


class Mac:
    """What `sysctl` tells on a Mac."""

    system = "Darwin"

    def __init__(self, gib: int, wired_limit_mb: int = 0) -> None:
        self._values = {
            "machdep.cpu.brand_string": "Apple M4 Max",
            "hw.ncpu": "16",
            "hw.memsize": str(gib * GIB),
            "iogpu.wired_limit_mb": str(wired_limit_mb),
        }

    def sysctl(self, name: str) -> str | None:
        return self._values.get(name)

    def text(self, path: str) -> str | None:
        return None


class Linux:
    """What the files of a Linux tell; memory in GiB, beside `files`."""

    system = "Linux"

    def __init__(self, gib: float, files: Mapping[str, str] | None = None) -> None:
        kib = int(gib * (1 << 20))
        self._files = {
            "/proc/meminfo": f"MemTotal:  {kib} kB\nMemFree: 5 kB\nMemAvailable:  {kib // 2} kB\n",
            "/proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\n\nmodel name\t: Other\n",
            **(files or {}),
        }

    def sysctl(self, name: str) -> str | None:
        return None

    def text(self, path: str) -> str | None:
        return self._files.get(path)


def mac(gib: int, wired_limit_mb: int = 0) -> Machine:
    return read_machine(Mac(gib, wired_limit_mb))


def linux(gib: float, files: Mapping[str, str] | None = None) -> Machine:
    return read_machine(Linux(gib, files))
