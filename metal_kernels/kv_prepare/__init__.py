"""Norm, RoPE and cache rounding of the window latent (paper §2.3)."""

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.kv_prepare.reference import kv_prepare


def _case(name: str, B: int, S: int, K: int, size: float = 1.0) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "kv": size * random_normal(seed, B, S, K),
            "norm_weight": 1.0 + 0.1 * random_normal(seed + 3, K),
            "cos": random_normal(seed + 1, S, 32),
            "sin": random_normal(seed + 2, S, 32),
            "eps": 1e-6,
            "official": True,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="kv_prepare",
    summary="RMS norm + partial RoPE + bf16/FP8 rounding of the window latent",
    reference=kv_prepare,
    inputs={"kv": "B S K", "norm_weight": "K", "cos": "S P", "sin": "S P"},
    outputs={"kv": "B S K"},
    tolerance=0.0,
    cases=(
        _case("one-token", 1, 1, 512),
        _case("odd-sizes", 2, 5, 192),
        _case("ragged-block", 1, 3, 160),
        _case("tiny-values", 1, 2, 128, size=1e-9),
    ),
)
