"""Macs that people run large models on: memory, bandwidth, and what a model leaves of both."""

from dataclasses import dataclass

GIB = 1 << 30

# What the program, one chunk of a prompt and the system's own buffers take beside weights and
# cache. An allowance, not a measurement.
WORKING_BYTES = 2 * GIB
# macOS lets the GPU keep this share of a large memory by default; `sysctl iogpu.wired_limit_mb`
# raises it, with a rest left for the system.
DEFAULT_SHARE = 0.75
SYSTEM_BYTES = 8 * GIB


@dataclass(frozen=True)
class Mac:
    """One kind of machine; bandwidth as Apple states it."""

    chip: str
    memory_gib: int
    bandwidth_gb_s: int

    @property
    def name(self) -> str:
        return f"{self.chip} {self.memory_gib} GB"

    @property
    def default_bytes(self) -> int:
        """What the GPU may use without a change of settings."""
        return int(self.memory_gib * GIB * DEFAULT_SHARE)

    @property
    def raised_bytes(self) -> int:
        """The same with a raised limit."""
        return self.memory_gib * GIB - SYSTEM_BYTES

    def verdict(self, needed: int) -> str:
        """How well `needed` bytes fit: `fits`, `raised limit` or `no`."""
        if needed <= self.default_bytes:
            return "fits"
        return "raised limit" if needed <= self.raised_bytes else "no"


MACS = (
    Mac("M4 Max", 64, 546),
    Mac("M3 Ultra", 96, 819),
    Mac("M4 Max", 128, 546),
    Mac("M2 Ultra", 192, 800),
    Mac("M3 Ultra", 256, 819),
    Mac("M3 Ultra", 512, 819),
)
