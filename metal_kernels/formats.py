"""The number formats of the release and their quantisers: bf16, e4m3, e2m1, e8m0, Hadamard.

Every function takes and returns float32 arrays whose values lie on the grid of the format named;
packing into bytes is a matter of storage. Source: `act_quant` and `fp4_act_quant` of the official
inference code. Scales are powers of two, `2^ceil(log2(amax / limit))`, found by exponent bits so
that an exact power of two is never rounded up.
"""

import mlx.core as mx

E4M3_MAX = 448.0
E2M1_MAX = 6.0
FP8_KV_BLOCK = 64
FP4_BLOCK = 32

# Smallest block maximum of each quantiser: below it the scale stays that of this value.
_E4M3_FLOOR = 1e-4
_E2M1_FLOOR = 6.0 * 2.0**-126


def round_bf16(x: mx.array) -> mx.array:
    """Nearest-even bfloat16 values of `x`, in float32."""
    return x.astype(mx.bfloat16).astype(mx.float32)


def e8m0_to_float(scales: mx.array) -> mx.array:
    """uint8 exponents -> float32 powers of two, `2^(b - 127)`; 0 becomes 2^-127, 255 NaN."""
    exponents = scales.astype(mx.uint32)
    # 2^-127 is subnormal in float32: its bits are half of the smallest normal's.
    bits = mx.where(exponents == 0, mx.array(1 << 22, mx.uint32), exponents << 23)
    return mx.where(exponents == 255, float("nan"), bits.view(mx.float32))


def power_of_two_scale(amax: mx.array, limit: float) -> mx.array:
    """`2^ceil(log2(amax / limit))` in float32, by exponent bits; `amax` must be normal."""
    # The release multiplies by the float32 reciprocal instead of dividing.
    bits = (amax.astype(mx.float32) * mx.array(1.0 / limit, mx.float32)).view(mx.uint32)
    exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0).astype(mx.uint32)
    scale = (exponent << 23).view(mx.float32)
    return mx.where(amax < float("inf"), scale, float("nan"))


def _blocks(x: mx.array, block: int) -> tuple[mx.array, int]:
    """[..., n] -> [..., ceil(n / block), block], zero-padded, and n."""
    n = x.shape[-1]
    if n % block:
        x = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, block - n % block)])
    return x.reshape(*x.shape[:-1], -1, block), n


def fp8_roundtrip(x: mx.array, block: int = FP8_KV_BLOCK) -> mx.array:
    """Quantise [..., n] to e4m3 with one power-of-two scale per `block` channels, and back."""
    blocks, n = _blocks(x, block)
    amax = mx.maximum(mx.abs(blocks).max(axis=-1, keepdims=True), _E4M3_FLOOR)
    scale = power_of_two_scale(amax, E4M3_MAX)
    rounded = mx.from_fp8(mx.to_fp8(blocks / scale), mx.float32) * scale
    return rounded.reshape(*x.shape[:-1], -1)[..., :n]


def round_e2m1(x: mx.array) -> mx.array:
    """Nearest e2m1 value of `x`, ties to the even mantissa, saturating at 6."""
    y = mx.abs(x)
    # The grid's step doubles at 2 and at 4; rounding to even steps is rounding to even mantissas.
    step = mx.where(y < 2.0, 0.5, mx.where(y < 4.0, 1.0, 2.0))
    return mx.clip(mx.round(x / step) * step, -E2M1_MAX, E2M1_MAX)


def fp4_roundtrip(x: mx.array, block: int = FP4_BLOCK) -> mx.array:
    """Quantise [..., n] to e2m1 with one power-of-two scale per `block` channels, and back."""
    blocks, n = _blocks(x, block)
    amax = mx.maximum(mx.abs(blocks).max(axis=-1, keepdims=True), _E2M1_FLOOR)
    scale = power_of_two_scale(amax, E2M1_MAX)
    return (round_e2m1(blocks / scale) * scale).reshape(*x.shape[:-1], -1)[..., :n]


def hadamard(x: mx.array) -> mx.array:
    """Orthonormal Walsh-Hadamard transform of the last axis, natural (Sylvester) order."""
    return mx.hadamard_transform(x, scale=x.shape[-1] ** -0.5)


def hadamard_fp4(x: mx.array) -> mx.array:
    """The indexer's rounding of queries and keys: bf16, Hadamard, bf16, then FP4 by 32 channels."""
    return fp4_roundtrip(round_bf16(hadamard(round_bf16(x))))


def fp8_kv(x: mx.array, rope_dims: int) -> mx.array:
    """The cache rounding of latents: bf16 everywhere, then FP8 on all but the last `rope_dims`."""
    x = round_bf16(x)
    return mx.concatenate([fp8_roundtrip(x[..., :-rope_dims]), x[..., -rope_dims:]], axis=-1)
