"""Clamped SwiGLU times the routing weight (paper §2.1)."""

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.swiglu.reference import swiglu


def _case(name: str, M: int, width: int, size: float, weighted: bool = True) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "gate_up": size * random_normal(seed, M, 2 * width),
            "weights": random_normal(seed + 1, M) if weighted else None,
            "limit": 10.0,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="swiglu",
    summary="clamped SwiGLU times the routing weight",
    reference=swiglu,
    inputs={"gate_up": "M X", "weights": "M"},
    outputs={"activated": "M I"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 1, 2048, 1.0),
        _case("clamped", 7, 131, 50.0),
        _case("shared-expert", 3, 64, 1.0, weighted=False),
    ),
)
