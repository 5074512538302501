"""Few tokens times the packed matrices of the experts chosen for them, each matrix read once."""

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.expert_matvec.launch import expert_matvec as fused
from metal_kernels.expert_matvec.reference import expert_matvec
from metal_kernels.packed_matvec import packed


def _chosen(seed: int, M: int, k: int, E: int) -> mx.array:
    """Experts [M, k] of which no token has one twice."""
    order = mx.argsort(random_normal(seed, M, E), axis=1)
    return order[:, :k].astype(mx.uint32)


def _case(
    name: str,
    M: int,
    k: int,
    E: int,
    width: int,
    out: int,
    bits: int,
    group: int = 32,
    dtype: mx.Dtype | None = None,
    *,
    each: bool = False,
) -> Case:
    """`each`: x has a row for each choice."""

    def make(seed: int) -> dict[str, object]:
        return {
            "x": random_normal(seed, M * k if each else M, width),
            "experts": _chosen(seed + 2, M, k, E),
            **packed(seed + 3, (E, out), width, bits, group, dtype),
        }

    return Case(name, make)


def _size(name: str, M: int, width: int, out: int, *, each: bool = False) -> Size:
    E, k = 48, 6
    read = min(E, M * k) * out * (width // 2 + width // 32)
    moved = 4 * M * (width * (k if each else 1) + k * out)
    return Size(
        _case(name, M, k, E, width, out, 4, each=each),
        flops=2 * M * k * width * out,
        nbytes=read + moved,
    )


KERNEL = Kernel(
    name="expert_matvec",
    summary="one to eight tokens times the packed matrices of their experts",
    reference=expert_matvec,
    inputs={
        "x": "X in",
        "codes": "E out words",
        "scales": "E out groups",
        "experts": "M k",
        "biases": "E out groups",
    },
    outputs={"product": "M k out"},
    tolerance=1e-10,
    cases=(
        _case("one-token", 1, 3, 5, 544, 9, 4),
        _case("one-token-down", 1, 6, 8, 64, 16, 4, each=True),
        _case("two-tokens-of-the-same", 2, 3, 3, 64, 12, 4),
        _case("eight-tokens", 8, 2, 4, 64, 8, 4, each=True),
        _case("eleven-tokens", 11, 1, 1, 32, 8, 4),
        _case("mxfp8", 3, 2, 5, 96, 9, 8),
        _case("affine-4", 4, 2, 5, 64, 10, 4, 64, mx.bfloat16),
        _case("affine-3", 2, 2, 3, 64, 9, 3, 32, mx.float32, each=True),
    ),
    sizes=(
        _size("flash-gate-up", 1, 4096, 4096),
        _size("flash-gate-up-6", 6, 4096, 4096),
        _size("flash-down-6", 6, 2048, 4096, each=True),
    ),
    launches=on_gpus(fused),
)
