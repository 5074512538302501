"""MLX's limits in a part: command buffers, memory that may be used, memory that stays."""

import os
from pathlib import Path

import mlx.core as mx

from dsv4_mlx.device import command_buffers
from dsv4_mlx.device.memory import HeldMemory, hold

_MARGIN = 2 << 30
_LEFT_FOR_THE_SYSTEM = 2 << 30


def leave_buffers_alone() -> None:
    """Take back what our import hook told MLX, which reads it when its device is made."""
    for name in command_buffers.current().ours:
        del os.environ[name]


def memory_limit(backend: str) -> int:
    """Bytes that arrays may take here: what Metal recommends, a card's memory, or what is free."""
    if backend == "cpu":
        return max(0, _available() - _LEFT_FOR_THE_SYSTEM)
    info = mx.device_info()
    for name in ("max_recommended_working_set_size", "free_memory", "total_memory"):
        if isinstance(found := info.get(name), int):
            return found
    return 0


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = meminfo.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def wire(backend: str, needed: int) -> HeldMemory:
    """Keep so many bytes resident, as loading does; nothing without Metal."""
    return hold(backend, needed + _MARGIN)
