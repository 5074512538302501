"""Norms of the query residual and of the window latent, and the latent's stored row (paper §2.3).

NaN in a token's columns makes NaN of everything that is normed over them. Infinity makes NaN of
itself and zeros of the rest; if `official`, NaN before RoPE makes NaN of its block of 64 dims.
"""

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.qkv_prepare.launch import qkv_prepare as fused
from metal_kernels.qkv_prepare.reference import qkv_prepare


def _case(
    name: str,
    B: int,
    S: int,
    L: int,
    K: int,
    *,
    P: int = 32,
    size: float = 1.0,
    official: bool = True,
    storage: str = "float32",
) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "projected": size * random_normal(seed, B, S, L + K),
            "q_norm_weight": 1.0 + 0.1 * random_normal(seed + 4, L),
            "kv_norm_weight": 1.0 + 0.1 * random_normal(seed + 3, K),
            "cos": random_normal(seed + 1, S, P),
            "sin": random_normal(seed + 2, S, P),
            "eps": 1e-6,
            "official": official,
            "storage": storage,
        }

    return Case(name, make)


def _size(name: str, S: int, L: int, K: int = 512) -> Size:
    # A square, a sum and two products of a column; six operations of a pair; a quotient, two
    # products and a rounding of a dim before RoPE.
    flops = S * (4 * (L + K) + 6 * 32 + 4 * (K - 64))
    return Size(_case(name, 1, S, L, K, storage="compact"), flops=flops)


KERNEL = Kernel(
    name="qkv_prepare",
    summary="RMS norms of the query residual and window latent + RoPE + rounding + storage",
    reference=qkv_prepare,
    inputs={
        "projected": "B S C",
        "q_norm_weight": "L",
        "kv_norm_weight": "K",
        "cos": "S P",
        "sin": "S P",
    },
    outputs={"q_residual": "B S L", "kv": "B S row"},
    tolerance=0.0,
    grids={"q_residual": 2.0**-7, "kv": 2.0**-3},
    sizes=(
        _size("flash-decode", 1, 1024),
        _size("pro-decode", 1, 1536),
        _size("flash-prefill", 512, 1024),
    ),
    cases=(
        _case("one-token", 1, 1, 1024, 512, storage="compact"),
        _case("odd-sizes", 2, 5, 96, 192),
        _case("ragged-block", 1, 3, 40, 160, storage="compact"),
        _case("all-rope", 1, 2, 33, 64, storage="bfloat16"),
        _case("tiny-values", 1, 2, 64, 128, size=1e-9),
        _case("plain", 1, 3, 64, 96, P=8, official=False),
    ),
    launches=on_gpus(fused),
)
