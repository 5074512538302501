"""mHC expansion of one sublayer and collapse for the next, fused (paper §2.2)."""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.hc_post_pre.launch import hc_post_pre as fused
from metal_kernels.hc_post_pre.reference import hc_post_pre
from metal_kernels.hc_pre import mixing_arguments, mixing_cases


def _case(name: str, B: int, S: int, N: int, D: int, size: float = 1.0) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "y": size * random_normal(seed, B, S, D),
            "streams": size * random_normal(seed + 1, B, S, N, D),
            "post": random_normal(seed + 2, B, S, N),
            "comb": random_normal(seed + 3, B, S, N, N),
            **mixing_arguments(seed + 4, N, D),
        }

    return Case(name, make)


KERNEL = Kernel(
    name="hc_post_pre",
    summary="expansion after one sublayer, collapse and RMSNorm before the next",
    reference=hc_post_pre,
    inputs={
        "y": "B S D",
        "streams": "B S N D",
        "post": "B S N",
        "comb": "B S N N",
        "fn": "M X",
        "base": "M",
        "scale": "3",
        "norm_weight": "D",
    },
    outputs={"mixed": "B S N D", "normed": "B S D", "next_post": "B S N", "next_comb": "B S N N"},
    tolerance=1e-10,
    grids={"mixed": 2.0**-7, "normed": 2.0**-7},  # one step of bf16
    sizes=(
        Size(_case("flash-decode", 1, 1, 4, 4096), 2 * 30 * 4 * 4096),
        Size(_case("flash-prefill", 1, 512, 4, 4096), 512 * 2 * 30 * 4 * 4096),
    ),
    cases=mixing_cases(_case),
    launches=on_gpus(fused),
)
