"""Machines that people run large models on, and what a model needs of their memory."""

from dataclasses import dataclass

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.release.layer_ranges import LayerRange
from dsv4_mlx.sizing.costs import Costs, Kv
from dsv4_mlx.sizing.passes import stream_bytes

GIB = 1 << 30
MIB = 1 << 20

# What the program, one chunk of a prompt and the system's own buffers take beside weights and
# cache. An allowance, not a measurement.
WORKING_BYTES = 2 * GIB
# macOS lets the GPU keep this share of a large memory by default; `sysctl iogpu.wired_limit_mb`
# raises it, with a rest left for the system.
DEFAULT_SHARE = 0.75
SYSTEM_BYTES = 8 * GIB


def default_limit(memory_bytes: int) -> int:
    """What a Mac's GPU may use of its memory without a change of settings."""
    return int(memory_bytes * DEFAULT_SHARE)


def raised_limit(memory_bytes: int) -> int:
    """The same with a raised limit, which a small memory has no room for."""
    return max(default_limit(memory_bytes), memory_bytes - SYSTEM_BYTES)


def wired_limit_mb(needed: int) -> int:
    """The setting of `iogpu.wired_limit_mb` for `needed` bytes, in whole GiB."""
    return -(-needed // GIB) * GIB // MIB


def memory_needed(
    config: DeepseekV4Config,
    weight_bytes: int,
    context: int,
    kv: Kv = "compact",
    layers: LayerRange | None = None,
    *,
    by_layers: int = 0,
) -> int:
    """Weights, the cache of one conversation at `context` tokens, of `layers` or of all, and an
    allowance; where prompts pass the model `by_layers`, streams of numbers of so many bytes."""
    streams = stream_bytes(config, context, by_layers)
    return weight_bytes + Costs(config, layers).cache_bytes(context, kv) + streams + WORKING_BYTES


def longest_context(
    config: DeepseekV4Config,
    weight_bytes: int,
    limit: int,
    kv: Kv = "compact",
    layers: LayerRange | None = None,
    *,
    by_layers: int = 0,
) -> int:
    """How many tokens fit beside the weights in `limit` bytes, at most what the model was made for;
    in whole thousands (1,024) of tokens, zero when not even one does."""
    low, high = 0, config.max_position_embeddings // 1024
    while low < high:
        middle = (low + high + 1) // 2
        context = middle * 1024
        if memory_needed(config, weight_bytes, context, kv, layers, by_layers=by_layers) <= limit:
            low = middle
        else:
            high = middle - 1
    return low * 1024


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
        return default_limit(self.memory_gib * GIB)

    @property
    def raised_bytes(self) -> int:
        """The same with a raised limit."""
        return raised_limit(self.memory_gib * GIB)

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
