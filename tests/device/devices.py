"""A Mac's GPU as `dsv4_mlx.device.memory` sees it, in the place of MLX: it records what is set."""

from types import SimpleNamespace
from typing import Any

import pytest

from dsv4_mlx.device import memory

GIB = 1 << 30
MEMORY = 512 * GIB


class RecordingDevice:
    """Limits as MLX keeps them, and in `events` what was done, in order."""

    def __init__(self, recommended: int = 400 * GIB, wired: int = 0, refusal: str = "") -> None:
        self.recommended, self.wired, self.cache = recommended, wired, MEMORY
        self.active = 0
        self.refusal = refusal
        self.events: list[Any] = []
        self.metal = SimpleNamespace(is_available=lambda: True)

    @property
    def limits(self) -> list[int]:
        """The wired limits that were set."""
        return [event[1] for event in self.events if event[0] == "wired"]

    def device_info(self) -> dict[str, Any]:
        return {"max_recommended_working_set_size": self.recommended, "memory_size": MEMORY}

    def set_wired_limit(self, limit: int) -> int:
        if self.refusal or limit > self.recommended:
            raise ValueError(self.refusal or "[metal::set_wired_limit] larger than allowed")
        before, self.wired = self.wired, limit
        self.events.append(("wired", limit))
        return before

    def set_cache_limit(self, limit: int) -> int:
        before, self.cache = self.cache, limit
        return before

    def get_active_memory(self) -> int:
        return self.active

    def synchronize(self) -> None:
        self.events.append(("synchronize",))


def install(patch: pytest.MonkeyPatch, device: RecordingDevice, macos: str = "15.5") -> None:
    """Let `device` be what memory is held on, in a process that holds none."""
    patch.setattr(memory, "mx", device)
    patch.setattr(memory, "_process", memory._Process())
    patch.setattr(memory.platform, "mac_ver", lambda: (macos, ("", "", ""), "arm64"))
