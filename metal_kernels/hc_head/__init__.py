"""Weighted sum of the streams and the final RMSNorm."""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.hc_head.launch import hc_head as fused
from metal_kernels.hc_head.reference import hc_head


def _case(name: str, B: int, S: int, N: int, D: int) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "streams": random_normal(seed, B, S, N, D),
            "fn": random_normal(seed + 1, N, N * D) * (N * D) ** -0.5,
            "base": random_normal(seed + 2, N),
            "scale": random_normal(seed + 3, 1),
            "norm_weight": 1.0 + 0.1 * random_normal(seed + 4, D),
            "hc_eps": 1e-6,
            "norm_eps": 1e-6,
            "official": True,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="hc_head",
    summary="collapse the streams before the head, with the final norm",
    reference=hc_head,
    inputs={"streams": "B S N D", "fn": "N X", "base": "N", "scale": "1", "norm_weight": "D"},
    outputs={"hidden": "B S D"},
    tolerance=1e-10,
    grids={"hidden": 2.0**-7},  # one step of bf16
    sizes=(Size(_case("flash-decode", 1, 1, 4, 4096), 2 * 5 * 4 * 4096),),
    cases=(_case("one-token", 1, 1, 4, 256), _case("odd-sizes", 2, 7, 4, 131)),
    launches=on_gpus(fused),
)
