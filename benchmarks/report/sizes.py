"""How much of everything a report does: a GPU's sizes, and small ones for a CPU in a test."""

from dataclasses import dataclass

from dsv4_mlx.release.config import FLASH, DeepseekV4Config
from dsv4_mlx.testing.checkpoints import TINY

MOST_LAYERS = 8
ROUNDS = 5


@dataclass(frozen=True)
class Sizes:
    """Bytes, elements, tokens and seconds of the parts."""

    copy_bytes: int
    matvec_bytes: int
    launches: int
    matmul: int
    greedy_tokens: int
    config: DeepseekV4Config
    """Of one layer; `layered` gives those of more."""
    context: int
    decode_tokens: int
    prefill: tuple[int, ...]
    heat_s: float
    rounds: int
    most_layers: int = MOST_LAYERS
    small_kernels: bool = False
    """Whether kernels are timed at their first case; else at their declared sizes."""


FULL = Sizes(
    copy_bytes=1 << 30,
    matvec_bytes=1 << 30,
    launches=2000,
    matmul=4096,
    greedy_tokens=32,
    config=FLASH,
    context=2048,
    decode_tokens=32,
    prefill=(512, 1024, 2048),
    heat_s=120.0,
    rounds=ROUNDS,
)

SMALL = Sizes(
    copy_bytes=1 << 20,
    matvec_bytes=1 << 20,
    launches=20,
    matmul=64,
    greedy_tokens=8,
    config=TINY.replace(n_routed_experts=16),
    context=40,
    decode_tokens=2,
    prefill=(16, 32),
    heat_s=0.0,
    rounds=1,
    most_layers=2,
    small_kernels=True,
)


def layered(config: DeepseekV4Config, layers: int) -> DeepseekV4Config:
    """`config` with so many layers: CSA and HCA in turn, the first one routed by hash."""
    return config.replace(
        num_hidden_layers=layers,
        compress_ratios=tuple((4, 128)[number % 2] for number in range(layers)),
        num_hash_layers=1,
        num_nextn_predict_layers=0,
    )
