"""mHC expansion and residual mix (paper §2.2)."""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.hc_post.launch import hc_post as fused
from metal_kernels.hc_post.reference import hc_post


def _case(name: str, B: int, S: int, N: int, D: int, experts: int = 0) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "y": random_normal(seed, B, S, D),
            "streams": random_normal(seed + 1, B, S, N, D),
            "post": random_normal(seed + 2, B, S, N),
            "comb": random_normal(seed + 3, B, S, N, N),
            "routed": random_normal(seed + 4, B, S, experts, D) if experts else None,
            "official": True,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="hc_post",
    summary="expand the sublayer output and mix the residual streams",
    reference=hc_post,
    inputs={
        "y": "B S D",
        "streams": "B S N D",
        "post": "B S N",
        "comb": "B S N N",
        "routed": "B S k D",
    },
    outputs={"mixed": "B S N D"},
    tolerance=1e-10,
    grids={"mixed": 2.0**-7},  # one step of bf16
    sizes=(
        Size(_case("flash-decode", 1, 1, 4, 4096, experts=6), 2 * 5 * 4 * 4096),
        Size(_case("flash-prefill", 1, 512, 4, 4096, experts=6), 512 * 2 * 5 * 4 * 4096),
    ),
    cases=(
        _case("one-token", 1, 1, 4, 256),
        _case("odd-sizes", 2, 7, 4, 131),
        _case("two-streams", 1, 3, 2, 64),
        _case("experts-one-token", 1, 1, 4, 256, experts=6),
        _case("experts-odd-sizes", 3, 5, 4, 131, experts=3),
    ),
    launches=on_gpus(fused),
)
