"""Engram's gate on every residual stream (arXiv:2601.07372, as V4.1 wires it)."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.engram_gate.launch import engram_gate as fused
from metal_kernels.engram_gate.reference import engram_gate


def _case(
    name: str, B: int, S: int, N: int, D: int, dtype: mx.Dtype = mx.float32, official: bool = True
) -> Case:
    def make(seed: int) -> dict[str, object]:
        return {
            "streams": random_normal(seed, B, S, N, D),
            "kv": random_normal(seed + 1, B, S, N + 1, D),
            "q_weight": (1 + 0.3 * random_normal(seed + 2, N, D)).astype(dtype),
            "k_weight": (1 + 0.3 * random_normal(seed + 3, N, D)).astype(dtype),
            "official": official,
        }

    return Case(name, make)


KERNEL = Kernel(
    name="engram_gate",
    summary="add what Engram looked up to every stream, as far as its key fits",
    reference=engram_gate,
    inputs={"streams": "B S N D", "kv": "B S M D", "q_weight": "N D", "k_weight": "N D"},
    outputs={"added": "B S N D"},
    tolerance=1e-10,
    grids={"added": 2.0**-7},  # one step of bf16
    cases=(
        _case("one-token", 1, 1, 4, 256, mx.bfloat16),
        _case("odd-sizes", 2, 7, 4, 131),
        _case("two-streams", 1, 3, 2, 64, mx.bfloat16),
        _case("one-channel", 1, 2, 1, 1),
        _case("wide", 1, 2, 4, 1100),
        _case("plain", 1, 3, 4, 96, official=False),
    ),
    sizes=(
        Size(_case("flash-decode", 1, 1, 4, 4096, mx.bfloat16), 8 * 4 * 4096),
        Size(_case("flash-prefill", 1, 512, 4, 4096, mx.bfloat16), 512 * 8 * 4 * 4096),
    ),
    launches=on_gpus(fused),
)
