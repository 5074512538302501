"""Pooling of token windows into compressed entries (paper §2.3.1 CSA, §2.3.2 HCA)."""

from metal_kernels.compress.reference import compress
from metal_kernels.contract import Case, Kernel, random_normal


def _case(
    name: str, B: int, n: int, d: int, ratio: int, rounding: str, *, lane: bool = False
) -> Case:
    def make(seed: int) -> dict[str, object]:
        overlap = ratio == 4
        return {
            "rows": random_normal(seed, B, n, 2, d * (2 if overlap else 1)),
            "lane": random_normal(seed + 1, B, ratio, 2, d) if lane else None,
            "norm_weight": 1.0 + 0.1 * random_normal(seed + 2, d),
            "cos": random_normal(seed + 3, n // ratio, 32),
            "sin": random_normal(seed + 4, n // ratio, 32),
            "ratio": ratio,
            "overlap": overlap,
            "eps": 1e-6,
            "rounding": rounding,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="compress",
    summary="open window in, closed entries (norm, RoPE, rounding) and open window out",
    reference=compress,
    inputs={
        "rows": "B n 2 C",
        "lane": "B R 2 d",
        "norm_weight": "d",
        "cos": "T P",
        "sin": "T P",
    },
    outputs={"entries": "B T d", "open": "B m 2 C", "lane": "B R 2 d"},
    tolerance=1e-10,
    cases=(
        _case("csa-first", 1, 9, 512, 4, "kv"),
        _case("csa-lane", 2, 11, 128, 4, "kv", lane=True),
        _case("csa-nothing-closes", 1, 3, 128, 4, "kv", lane=True),
        _case("index", 1, 8, 128, 4, "index", lane=True),
        _case("hca", 1, 257, 128, 128, "kv"),
        _case("hca-plain", 1, 128, 192, 128, "none"),
    ),
)
