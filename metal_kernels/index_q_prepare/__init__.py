"""RoPE, Hadamard and FP4 rounding of the index queries (paper §2.3.1)."""

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.index_q_prepare.reference import index_q_prepare


def _case(name: str, B: int, S: int, H: int, K: int, official: bool = True) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "q": random_normal(seed, B, S, H, K),
            "cos": random_normal(seed + 1, S, 32),
            "sin": random_normal(seed + 2, S, 32),
            "official": official,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="index_q_prepare",
    summary="partial RoPE + Hadamard + FP4 rounding of the index queries",
    reference=index_q_prepare,
    inputs={"q": "B S H K", "cos": "S P", "sin": "S P"},
    outputs={"q": "B S H K"},
    tolerance=0.0,
    cases=(
        _case("one-token", 1, 1, 64, 128),
        _case("odd-sizes", 2, 5, 3, 64),
        _case("plain", 1, 3, 4, 128, official=False),
    ),
)
