"""Few rows times a packed weight, each row with the numbers that it has alone."""

from math import prod

import mlx.core as mx

from metal_kernels.contract import Case, Kernel, Size, on_gpus, random_normal
from metal_kernels.packed_matvec.launch import packed_matvec as fused
from metal_kernels.packed_matvec.reference import packed_matvec


def packed(
    seed: int, shape: tuple[int, ...], width: int, bits: int, group: int, dtype: mx.Dtype | None
) -> dict[str, object]:
    """Arrays and options of a random weight [*shape, width]: every code, with scales of `dtype`
    and offsets, or scales from 2^-7 to 1 where there is none."""
    keys = mx.random.split(mx.random.key(seed), 3)
    halves = mx.random.randint(0, 1 << 16, (*shape, width * bits // 16), mx.int32, key=keys[0])
    codes = halves.astype(mx.uint16).view(mx.uint32)
    groups = (*shape, width // group)
    found = {"codes": codes, "bits": bits, "group_size": group, "biases": None}
    if dtype is None:
        if bits == 8:  # 0x7F is no number
            codes = codes & 0xF7F7F7F7
        scales = mx.random.randint(120, 128, groups, mx.int32, key=keys[1]).astype(mx.uint8)
        return {**found, "codes": codes, "scales": scales}
    step = mx.random.uniform(0.5, 1.0, groups, key=keys[1]) * 2.0**-bits
    offset = step * (mx.random.uniform(0.25, 0.75, groups, key=keys[2]) - 1) * 2.0**bits
    return {**found, "scales": step.astype(dtype), "biases": offset.astype(dtype)}


def _case(
    name: str,
    M: int,
    width: int,
    out: int,
    bits: int,
    group: int = 32,
    dtype: mx.Dtype | None = None,
    g: int = 1,
) -> Case:
    def make(seed: int) -> dict[str, object]:
        weight = packed(seed + 1, (g * out,), width, bits, group, dtype)
        return {"x": random_normal(seed, M, g, width), **weight}

    return Case(name, make)


def _size(name: str, M: int, width: int, out: int, bits: int, g: int = 1) -> Size:
    weights = prod((g, out, width))
    return Size(_case(name, M, width, out, bits, g=g), flops=2 * M * weights)


KERNEL = Kernel(
    name="packed_matvec",
    summary="one to eight rows times a packed weight",
    reference=packed_matvec,
    inputs={
        "x": "M g in",
        "codes": "N words",
        "scales": "N groups",
        "biases": "N groups",
    },
    outputs={"product": "M N"},
    # Affine sums cancel: codes up to 255 times a scale against the offset times the row's sum.
    tolerance=1e-10,
    cases=(
        _case("mxfp8-one-row", 1, 1024, 48, 8),
        _case("mxfp8-eight-rows", 8, 160, 21, 8),
        _case("mxfp8-groups", 3, 96, 12, 8, g=4),
        _case("mxfp4-one-row", 1, 544, 19, 4),
        _case("mxfp4-three-rows", 3, 64, 8, 4),
        _case("more-rows", 11, 32, 9, 4),
        _case("affine-8", 2, 128, 10, 8, 64, mx.bfloat16),
        _case("affine-6", 5, 96, 9, 6, 32, mx.float32),
        _case("affine-5", 1, 64, 9, 5, 32, mx.bfloat16),
        _case("affine-4-groups", 2, 128, 8, 4, 128, mx.bfloat16, g=2),
        _case("affine-3", 4, 576, 9, 3, 64, mx.bfloat16),
        _case("affine-2", 8, 64, 11, 2, 32, mx.float32),
    ),
    sizes=(
        _size("flash-q-b", 1, 1024, 32768, 8),
        _size("flash-o-a", 1, 4096, 1024, 8, g=8),
        _size("flash-o-b", 1, 8192, 4096, 8),
        _size("flash-o-b-6", 6, 8192, 4096, 8),
    ),
    launches=on_gpus(fused),
)
