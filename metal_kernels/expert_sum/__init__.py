"""Sum of routed and shared expert outputs (paper §2.1)."""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.expert_sum.launch import expert_sum as fused
from metal_kernels.expert_sum.reference import expert_sum

BF16_STEP = 2.0**-7


def _case(name: str, M: int, k: int, D: int, official: bool = True) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "routed": random_normal(seed, M, k, D),
            "shared": random_normal(seed + 1, M, D),
            "official": official,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="expert_sum",
    summary="routed and shared expert outputs added, rounded once",
    reference=expert_sum,
    inputs={"routed": "M k D", "shared": "M D"},
    outputs={"total": "M D"},
    tolerance=1e-10,
    grids={"total": BF16_STEP},
    cases=(
        _case("one-token", 1, 6, 4096),
        _case("odd-sizes", 7, 3, 131),
        _case("unrounded", 3, 6, 258, official=False),
    ),
    sizes=(
        Size(_case("flash", 1, 6, 4096), flops=6 * 4096),
        Size(_case("pro", 1, 6, 7168), flops=6 * 7168),
    ),
    launches=on_gpus(fused),
)
