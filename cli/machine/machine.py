"""What this machine is and what a model may use of its memory, as the system tells it."""

import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from dsv4_mlx.sizing.machines import MIB, default_limit, raised_limit

WIRED_LIMIT = "iogpu.wired_limit_mb"
_CGROUPS = "/sys/fs/cgroup"


class Probe(Protocol):
    """Where facts come from; a test gives others."""

    system: str

    def sysctl(self, name: str) -> str | None:
        """A value of `sysctl`, None when there is none of that name."""
        ...

    def text(self, path: str) -> str | None:
        """A small file of the system, None when it cannot be read."""
        ...


class ThisMachine:
    """The facts of this machine."""

    system = platform.system()

    def sysctl(self, name: str) -> str | None:
        """A value of `sysctl`."""
        program = "/usr/sbin/sysctl"
        try:
            done = subprocess.run(
                [program, "-n", name], capture_output=True, text=True, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def text(self, path: str) -> str | None:
        """A small file of the system."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None


@dataclass(frozen=True)
class Machine:
    """One machine; sizes are bytes, None is what the system does not tell."""

    system: str
    chip: str
    cores: int | None
    memory: int | None
    available: int | None = None
    """What is free or could be freed now."""
    container: int | None = None
    """What the control groups of this process allow, on Linux."""
    wired_limit_mb: int | None = None
    """The setting of macOS; 0 is its default."""
    device: int | None = None
    """What a graphics card has of its own."""
    wirable: int | None = None
    """What a Mac's GPU may keep resident, as the GPU itself says."""

    @property
    def is_mac(self) -> bool:
        return self.system == "Darwin"

    def limit(self, backend: str) -> int | None:
        """What a model may use on `backend` now."""
        if self.memory is None:
            return None
        if self.is_mac and backend != "cpu":
            if self.wirable is not None:
                return self.wirable
            if self.wired_limit_mb:
                return min(self.wired_limit_mb * MIB, self.memory)
            return default_limit(self.memory)
        if backend == "cuda" and self.device is not None:
            return self.device
        return min(self.memory, self.container or self.memory)

    def raisable(self, backend: str) -> int | None:
        """The same with the setting of macOS raised; None where there is none to raise."""
        if not self.is_mac or backend == "cpu" or self.memory is None:
            return None
        return raised_limit(self.memory)


def read_machine(probe: Probe | None = None) -> Machine:
    """The facts that `probe` gives, by default of this machine."""
    probe = probe or ThisMachine()
    return _mac(probe) if probe.system == "Darwin" else _linux(probe)


def _mac(probe: Probe) -> Machine:
    return Machine(
        probe.system,
        chip=probe.sysctl("machdep.cpu.brand_string") or "an unknown chip",
        cores=_number(probe.sysctl("hw.ncpu")),
        memory=_number(probe.sysctl("hw.memsize")),
        wired_limit_mb=_number(probe.sysctl(WIRED_LIMIT)) or 0,
    )


def _linux(probe: Probe) -> Machine:
    memory = _fields(probe.text("/proc/meminfo") or "")
    processor = _fields(probe.text("/proc/cpuinfo") or "")
    return Machine(
        probe.system,
        chip=processor.get("model name") or "an unknown processor",
        cores=os.cpu_count(),
        memory=_kib(memory.get("MemTotal")),
        available=_kib(memory.get("MemAvailable")),
        container=_container(probe.text),
    )


def _fields(text: str) -> Mapping[str, str]:
    """The first value of each `name : value` line."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator:
            found.setdefault(name.strip(), value.strip())
    return found


def _kib(value: str | None) -> int | None:
    number = _number((value or "").removesuffix("kB").strip())
    return None if number is None else number * 1024


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _container(read: Callable[[str], str | None]) -> int | None:
    """The smallest limit among the control groups that this process is in, of either version."""
    limits = []
    for line in (read("/proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            limits += _limits(read, _CGROUPS, group, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(read, f"{_CGROUPS}/memory", group, "memory.limit_in_bytes")
    # Without a limit, version 1 tells a number near 2**63.
    return min((limit for limit in limits if limit < 1 << 60), default=None)


def _limits(read: Callable[[str], str | None], base: str, group: str, file: str) -> list[int]:
    """The limits of a group and of those above it; in a container its own is at the top."""
    path = PurePosixPath("/", *(part for part in group.split("/") if part not in ("", "..")))
    found = [_number(read(f"{base}{folder}/{file}".replace("//", "/")))
             for folder in (path, *path.parents)]  # fmt: skip
    return [limit for limit in found if limit is not None]
