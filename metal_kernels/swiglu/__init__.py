"""Clamped SwiGLU times the routing weight (paper §2.1)."""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.swiglu.launch import swiglu as fused
from metal_kernels.swiglu.reference import swiglu


def _case(
    name: str,
    rows: int,
    width: int,
    size: float = 1.0,
    weighted: bool = True,
    shared: tuple[int, int] | None = None,
    limit: float = 10.0,
) -> Case:
    def make(seed: int) -> dict[str, object]:
        M, shared_width = shared or (0, 0)
        return {
            "gate_up": size * random_normal(seed, rows, 2 * width),
            "weights": random_normal(seed + 1, rows) if weighted else None,
            "shared": size * random_normal(seed + 2, M, 2 * shared_width) if shared else None,
            "limit": limit,
        }

    return Case(name, make)


def _size(name: str, rows: int, width: int, shared: tuple[int, int]) -> Size:
    # exp, sum, quotient and three products of a channel
    flops = 6 * (rows * width + shared[0] * shared[1])
    return Size(_case(name, rows, width, shared=shared), flops=flops)


KERNEL = Kernel(
    name="swiglu",
    summary="clamped SwiGLU of routed and shared experts times the routing weight",
    reference=swiglu,
    inputs={"gate_up": "R X", "weights": "R", "shared": "M Y"},
    outputs={"activated": "R I", "shared_activated": "M J"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 6, 2048, shared=(1, 2048)),
        _case("one-row", 1, 2048),
        _case("clamped", 7, 131, size=50.0),
        _case("unweighted", 3, 64, weighted=False),
        _case("odd-shared", 9, 37, size=20.0, shared=(3, 131)),
        _case("no-limit", 5, 66, size=20.0, shared=(2, 30), limit=0.0),
    ),
    sizes=(
        _size("flash", 6, 2048, (1, 2048)),
        _size("pro", 6, 3072, (1, 3072)),
        _size("flash-prompt", 3072, 2048, (512, 2048)),
    ),
    launches=on_gpus(fused),
)
