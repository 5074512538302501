"""mHC mixing weights, Sinkhorn, collapse and the following RMSNorm (paper §2.2)."""

from collections.abc import Callable
from typing import Any

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.hc_pre.launch import hc_pre as fused
from metal_kernels.hc_pre.reference import hc_pre


def mixing_arguments(seed: int, N: int, D: int) -> dict[str, Any]:
    """What a sublayer brings to the mix of N streams of D channels."""
    mixes = (2 + N) * N
    return {
        "fn": random_normal(seed, mixes, N * D) * (N * D) ** -0.5,
        "base": 0.5 * random_normal(seed + 1, mixes),
        "scale": random_normal(seed + 2, 3),
        "norm_weight": 1.0 + 0.1 * random_normal(seed + 3, D),
        "iters": 20,
        "hc_eps": 1e-6,
        "norm_eps": 1e-6,
        "official": True,
    }


def mixing_cases(case: Callable[..., Case]) -> tuple[Case, ...]:
    """What tends to break a mix; `case` takes a name, B, S, N, D and the values' size."""
    return (
        case("one-token", 1, 1, 4, 256),
        case("odd-sizes", 2, 7, 4, 131),
        case("two-streams", 1, 3, 2, 64),
        case("tiny-values", 1, 2, 4, 64, size=1e-6),
        case("large-values", 1, 2, 4, 64, size=1e4),
    )


def _case(name: str, B: int, S: int, N: int, D: int, size: float = 1.0) -> Case:
    def make(seed: int) -> dict[str, object]:
        streams = size * random_normal(seed, B, S, N, D)
        return {"streams": streams, **mixing_arguments(seed + 1, N, D)}

    return Case(name, make)


KERNEL = Kernel(
    name="hc_pre",
    summary="norm + mix + Sinkhorn + collapse + RMSNorm",
    reference=hc_pre,
    inputs={"streams": "B S N D", "fn": "M X", "base": "M", "scale": "3", "norm_weight": "D"},
    outputs={"normed": "B S D", "post": "B S N", "comb": "B S N N"},
    tolerance=1e-10,
    grids={"normed": 2.0**-7},  # one step of bf16
    sizes=(
        Size(_case("flash-decode", 1, 1, 4, 4096), 2 * 25 * 4 * 4096),
        Size(_case("flash-prefill", 1, 512, 4, 4096), 512 * 2 * 25 * 4 * 4096),
    ),
    cases=mixing_cases(_case),
    launches=on_gpus(fused),
)
