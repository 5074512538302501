"""Head norm and partial RoPE of the queries, rounding of the index queries (paper §2.3, §2.3.1).

NaN in a head of attention makes the whole head NaN; infinity makes NaN of itself (and of the dim it
is rotated with) and zeros of the rest. In an index head both make the head NaN if `official`, as
the Hadamard spreads them, else they stay with their pair of dims.
"""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.q_prepare.launch import q_prepare as fused
from metal_kernels.q_prepare.reference import q_prepare


def _case(
    name: str,
    B: int,
    S: int,
    heads: tuple[int, int],
    index: tuple[int, int] = (0, 0),
    *,
    P: int = 32,
    size: float = 1.0,
    official: bool = True,
) -> Case:
    columns = heads[0] * heads[1] + index[0] * index[1]

    def make(seed: int) -> dict[str, object]:
        return {
            "projected": size * random_normal(seed, B, S, columns),
            "cos": random_normal(seed + 1, S, P),
            "sin": random_normal(seed + 2, S, P),
            "heads": heads[0],
            "width": heads[1],
            "index_heads": index[0],
            "index_width": index[1],
            "eps": 1e-6,
            "official": official,
        }

    return Case(name, make)


def _size(name: str, S: int, heads: int, index_heads: int = 64) -> Size:
    # A square, a sum and a product of a dim; seven sums of an index dim, its norm, a quotient, a
    # rounding and a product; six operations of a pair of either kind.
    flops = S * (heads * (3 * 512 + 6 * 32) + index_heads * (11 * 128 + 6 * 32))
    return Size(_case(name, 1, S, (heads, 512), (index_heads, 128)), flops=flops)


KERNEL = Kernel(
    name="q_prepare",
    summary="per-head RMS norm + RoPE of the queries; RoPE + Hadamard + FP4 of the index queries",
    reference=q_prepare,
    inputs={"projected": "B S C", "cos": "S P", "sin": "S P"},
    outputs={"q": "B S H K", "index_q": "B S Hi Ki"},
    tolerance=1e-10,
    # Rotation mixes two rounded numbers: where they cancel, a step may be as large as the result.
    grids={"q": 1.0, "index_q": 1.0},
    sizes=(
        _size("flash-decode", 1, 64),
        _size("pro-decode", 1, 128),
        _size("flash-prefill", 128, 64),
    ),
    cases=(
        _case("one-token", 1, 1, (64, 512), (64, 128)),
        _case("odd-sizes", 2, 5, (3, 192), (3, 64)),
        _case("no-index", 2, 5, (3, 128)),
        _case("all-rope", 1, 2, (2, 64), (1, 64)),
        _case("tiny-values", 1, 2, (2, 128), (1, 128), size=1e-4),
        _case("narrow", 1, 7, (4, 32), (4, 32), P=8),
        _case("plain", 1, 3, (4, 96), (4, 128), official=False),
    ),
    launches=on_gpus(fused),
)
