"""A model whose routed experts are read from a disk: what it takes, and what to expect of it.

Sizes are exact. Speeds are expected, from a model that nobody has checked on a Mac with this
program: a token takes its bytes at a part of the memory's bandwidth, a wait in each layer, and the
reads of the experts that are not in memory, one after the other.
"""

from bisect import bisect_left
from dataclasses import dataclass

from dsv4_mlx.release.config import DeepseekV4Config
from dsv4_mlx.sizing.costs import Kv
from dsv4_mlx.sizing.machines import MACS, Mac, memory_needed
from dsv4_mlx.sizing.passes import OFFICIAL_BYTES

ENOUGH_SLOTS = 16
"""Slots of a layer below which most experts are read anew for every token."""
MANY_EXPERTS = 64
"""Models with fewer experts are small; for them the experts of one token are enough."""
STAGED_LAYERS = 2
"""Layers whose experts are in memory beside the pools while a prompt is read."""

_BANDWIDTH_SHARE = 0.45  # what other programs reach of the memory's bandwidth
_WAIT_S = 0.2e-3  # for the choice of a layer's experts
# Slots of 256 -> percent of uses that find their expert in memory, in two simulations of an LRU
# with 6 of 256 experts a token: the choice clings to some experts moderately, and strongly.
_SLOTS = (0, 12, 16, 27, 44, 64, 86, 108, 128, 172, 200, 230, 256)
_MODERATE = (0, 15, 21, 34, 48, 56, 63, 69, 74, 84, 90, 96, 100)
_STRONG = (0, 25, 34, 51, 63, 69, 75, 80, 84, 90, 94, 97, 100)
_SIMULATED_EXPERTS = 256


@dataclass(frozen=True)
class StreamedWeights:
    """Bytes of a model whose routed experts stay in files; its draft blocks are not loaded."""

    config: DeepseekV4Config
    resident: int
    """Of all other weights, in memory."""
    read: int
    """Of these what every token reads."""
    slot_bytes: int
    """Of one expert of every layer in memory."""
    file_bytes: int
    """Of the same in files."""

    @property
    def expert_bytes(self) -> int:
        """What reading one expert takes from the disk, on average over layers."""
        return self.file_bytes // self.config.num_hidden_layers

    @property
    def staging_bytes(self) -> int:
        """Beside the pools while a prompt is read: all experts of two layers."""
        layers = self.config.num_hidden_layers
        staged = min(STAGED_LAYERS, layers)
        return staged * self.config.n_routed_experts * self.slot_bytes // layers

    def needed(self, pools: int, context: int, kv: Kv = "compact") -> int:
        """Bytes of memory with pools of so many bytes and a conversation of `context` tokens, all
        of which, or a pass of them, may be a prompt."""
        weights = self.resident + self.staging_bytes + pools
        return memory_needed(self.config, weights, context, kv, by_layers=OFFICIAL_BYTES)

    def pools_in(self, limit: int, context: int, kv: Kv = "compact") -> int:
        """Bytes that are left for the pools in `limit`, 0 at least; no more than all experts."""
        left = limit - self.needed(0, context, kv)
        return max(0, min(left, self.config.n_routed_experts * self.slot_bytes))

    def slots(self, pools: int) -> int:
        """Experts of every layer that pools of so many bytes hold."""
        return min(pools // self.slot_bytes, self.config.n_routed_experts)


def enough_slots(config: DeepseekV4Config) -> int:
    """Experts of each layer that should be in memory at least."""
    few = config.n_routed_experts < MANY_EXPERTS
    return config.num_experts_per_tok if few else ENOUGH_SLOTS


@dataclass(frozen=True)
class Expected:
    """What to expect of a streamed model; no measurement."""

    slots: int
    """Experts in memory, of each layer."""
    hits: tuple[float, float]
    """Shares of uses that find their expert in memory, the careful one first."""
    tokens_per_s: tuple[float, float]
    first_answer_s: float
    """Reading every expert once, as a prompt of some hundred tokens does."""
    disk_gb_s: float
    """The rate of the disk that is assumed."""

    def rate_text(self) -> str:
        """For people: 2.1 to 2.8 tokens/s expected."""
        return f"{_range_text(*self.tokens_per_s)} tokens/s expected"


def expected(
    model: StreamedWeights, slots: int, bandwidth_gb_s: float | None, disk_gb_s: float
) -> Expected:
    """With `slots` experts of each layer in memory; rates are 1e9 bytes per second.

    Without a known `bandwidth_gb_s` the multiplying itself counts as nothing.
    """
    config = model.config
    share = slots / config.n_routed_experts
    hits = hit_rate(share, _MODERATE), hit_rate(share, _STRONG)
    uses = config.num_experts_per_tok
    busy = config.num_hidden_layers * _WAIT_S if slots < config.n_routed_experts else 0.0
    if bandwidth_gb_s is not None:
        token_bytes = model.read + uses * model.slot_bytes
        busy += token_bytes / (_BANDWIDTH_SHARE * bandwidth_gb_s * 1e9)
    times = [busy + (1 - hit) * uses * model.file_bytes / (disk_gb_s * 1e9) for hit in hits]
    return Expected(
        slots,
        hits,
        (1 / max(times[0], 1e-9), 1 / max(times[1], 1e-9)),
        config.n_routed_experts * model.file_bytes / (disk_gb_s * 1e9),
        disk_gb_s,
    )


def hit_rate(share: float, simulated: tuple[int, ...] = _MODERATE) -> float:
    """Uses that find their expert, where a `share` of experts is in memory; both from 0 to 1."""
    slots = min(max(share, 0.0), 1.0) * _SIMULATED_EXPERTS
    above = max(1, bisect_left(_SLOTS, slots))
    low, high = _SLOTS[above - 1], _SLOTS[above]
    weight = (slots - low) / (high - low)
    return (simulated[above - 1] * (1 - weight) + simulated[above] * weight) / 100


@dataclass(frozen=True)
class StreamingMac:
    """A Mac with the rate at which its own disk is expected to answer."""

    mac: Mac
    disk_gb_s: float


STREAMING_MACS = (
    StreamingMac(Mac("M4 Max", 36, 410), 5.5),
    StreamingMac(Mac("M4 Pro", 48, 273), 5.5),
    StreamingMac(Mac("M4 Max", 64, 546), 6),
    StreamingMac(Mac("M5 Pro", 64, 307), 10),
    StreamingMac(Mac("M2 Max", 96, 400), 5.5),
    StreamingMac(Mac("M4 Max", 128, 546), 6.5),
    StreamingMac(Mac("M5 Max", 128, 614), 12),
)
"""Bandwidths as Apple states them; rates of disks as users of other programs report them."""


def bandwidth_of(chip: str) -> float | None:
    """The memory's bandwidth of a Mac by its chip, such as Apple M4 Max, the smallest known."""
    name = chip.removeprefix("Apple ").strip()
    macs = (*MACS, *(one.mac for one in STREAMING_MACS))
    return min((one.bandwidth_gb_s for one in macs if one.chip == name), default=None)


def _range_text(low: float, high: float) -> str:
    texts = [f"{one:.1f}" if one < 9.95 else f"{one:.0f}" for one in (low, high)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"
