"""Head norm and partial RoPE of the queries (paper §2.3)."""

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.q_prepare.reference import q_prepare


def _case(name: str, B: int, S: int, H: int, K: int, size: float = 1.0) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "q": size * random_normal(seed, B, S, H, K),
            "cos": random_normal(seed + 1, S, 32),
            "sin": random_normal(seed + 2, S, 32),
            "eps": 1e-6,
            "official": True,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="q_prepare",
    summary="per-head RMS norm + partial RoPE of the queries",
    reference=q_prepare,
    inputs={"q": "B S H K", "cos": "S P", "sin": "S P"},
    outputs={"q": "B S H K"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 1, 1, 64, 512),
        _case("odd-sizes", 2, 5, 3, 128),
        _case("all-rope", 1, 2, 2, 64),
        _case("tiny-values", 1, 2, 2, 128, size=1e-4),
    ),
)
