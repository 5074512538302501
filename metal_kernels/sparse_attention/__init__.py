"""Window + compressed entries + sinks + inverse RoPE (paper §2.3)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, random_normal
from metal_kernels.sparse_attention.reference import sparse_attention


def _case(
    name: str, S: int, H: int, K: int, first: int, *, ratio: int = 0, T: int = 0, k: int = 0
) -> Case:
    def make(seed: int) -> dict[str, object]:
        selected = None
        if k:
            order = mx.argsort(random_normal(seed + 6, 1, S, T), axis=-1)[..., :k].astype(mx.int32)
            visible = (mx.arange(first, first + S) + 1) // ratio
            selected = mx.where(order < visible[:, None], order, -1)
        return {
            "q": random_normal(seed, 1, S, H, K),
            "window": random_normal(seed + 1, 1, min(first, 127) + S, K),
            "sinks": random_normal(seed + 2, H),
            "cos": random_normal(seed + 3, S, 32),
            "sin": random_normal(seed + 4, S, 32),
            "entries": random_normal(seed + 5, 1, T, K) if T else None,
            "selected": selected,
            "first_position": first,
            "ratio": ratio,
            "sliding_window": 128,
            "official": True,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="sparse_attention",
    summary="sinks attention over window and selected entries, with inverse RoPE",
    reference=sparse_attention,
    inputs={
        "q": "B S H K",
        "window": "B n K",
        "sinks": "H",
        "cos": "S P",
        "sin": "S P",
        "entries": "B T K",
        "selected": "B S k",
    },
    outputs={"output": "B S H K"},
    tolerance=1e-9,
    cases=(
        _case("first-token", 1, 4, 128, 0),
        _case("window-only", 5, 3, 128, 200),
        _case("hca-decode", 1, 64, 512, 4095, ratio=128, T=32),
        _case("hca-chunk", 131, 4, 128, 250, ratio=128, T=2),
        _case("csa-decode", 1, 64, 512, 4095, ratio=4, T=1024, k=512),
        _case("csa-chunk-with-holes", 9, 4, 128, 60, ratio=4, T=17, k=16),
    ),
)
