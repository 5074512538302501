"""The number formats of the release, their quantisers, and the rows a cache stores.

bf16, e4m3, e2m1, e8m0 and Hadamard: quantisers take and return float32 arrays, whose values then
lie on the grid of the format named. Source: `act_quant` and `fp4_act_quant` of the official
inference code. Scales are powers of two, `2^ceil(log2(amax / limit))`, found by exponent bits so
that an exact power of two is never rounded up.

Packing rounds nothing: rows that a quantiser has rounded come back from their bytes as they were,
NaN included. `rows` says what a row's bytes are.
"""

from functools import cache

import mlx.core as mx

from metal_kernels.shared.rows import FP4_BLOCK, FP8_KV_BLOCK, RowKind, RowStorage, row_form

E4M3_MAX = 448.0
E2M1_MAX = 6.0

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
    return x.reshape(*x.shape[:-1], x.shape[-1] // block, block), n


def _channels(blocks: mx.array, n: int) -> mx.array:
    """[..., count, block] -> [..., n]: `_blocks` taken back."""
    return blocks.reshape(*blocks.shape[:-2], blocks.shape[-2] * blocks.shape[-1])[..., :n]


def _fp8_scale(blocks: mx.array) -> mx.array:
    """The scale of every block: [..., count, block] -> [..., count, 1]; NaN for NaN or infinity."""
    amax = mx.maximum(mx.abs(blocks).max(axis=-1, keepdims=True), _E4M3_FLOOR)
    return power_of_two_scale(amax, E4M3_MAX)


def _fp4_scale(blocks: mx.array) -> mx.array:
    amax = mx.maximum(mx.abs(blocks).max(axis=-1, keepdims=True), _E2M1_FLOOR)
    return power_of_two_scale(amax, E2M1_MAX)


def fp8_roundtrip(x: mx.array, block: int = FP8_KV_BLOCK) -> mx.array:
    """Quantise [..., n] to e4m3 with one power-of-two scale per `block` channels, and back.

    A block with NaN or infinity becomes NaN.
    """
    blocks, n = _blocks(x, block)
    scale = _fp8_scale(blocks)
    return _channels(mx.from_fp8(mx.to_fp8(blocks / scale), mx.float32) * scale, n)


def round_e2m1(x: mx.array) -> mx.array:
    """Nearest e2m1 value of `x`, ties to the even mantissa, saturating at 6."""
    y = mx.abs(x)
    # The grid's step doubles at 2 and at 4; rounding to even steps is rounding to even mantissas.
    step = mx.where(y < 2.0, 0.5, mx.where(y < 4.0, 1.0, 2.0))
    return mx.clip(mx.round(x / step) * step, -E2M1_MAX, E2M1_MAX)


def fp4_roundtrip(x: mx.array, block: int = FP4_BLOCK) -> mx.array:
    """Quantise [..., n] to e2m1 with one power-of-two scale per `block` channels, and back."""
    blocks, n = _blocks(x, block)
    scale = _fp4_scale(blocks)
    return _channels(round_e2m1(blocks / scale) * scale, n)


def hadamard(x: mx.array) -> mx.array:
    """Orthonormal Walsh-Hadamard transform of the last axis, natural (Sylvester) order."""
    if x.size == 0:  # MLX refuses empty arrays
        return x
    return mx.hadamard_transform(x, scale=x.shape[-1] ** -0.5)


def hadamard_fp4(x: mx.array) -> mx.array:
    """The indexer's rounding of queries and keys: bf16, Hadamard, bf16, then FP4 by 32 channels."""
    return fp4_roundtrip(round_bf16(hadamard(round_bf16(x))))


def fp8_kv(x: mx.array, rope_dims: int) -> mx.array:
    """The cache rounding of latents: bf16 everywhere, then FP8 on all but the last `rope_dims`."""
    x, nope = round_bf16(x), x.shape[-1] - rope_dims
    return mx.concatenate([fp8_roundtrip(x[..., :nope]), x[..., nope:]], axis=-1)


@cache
def row_shape(
    storage: RowStorage, kind: RowKind, width: int, rope_dims: int = 0
) -> tuple[int, mx.Dtype]:
    """Elements and dtype of a stored row."""
    elements, dtype = row_form(storage, kind, width, rope_dims)
    return elements, {"float32": mx.float32, "bfloat16": mx.bfloat16, "uint8": mx.uint8}[dtype]


def store(x: mx.array, storage: RowStorage, kind: RowKind, rope_dims: int = 0) -> mx.array:
    """Float32 rows [..., width] as a cache keeps them; "compact" expects rounded rows."""
    if storage == "float32":
        return x
    if storage == "bfloat16":
        return x.astype(mx.bfloat16)
    return pack_key(x) if kind == "key" else pack_latent(x, rope_dims)


def load_stored(stored: mx.array, width: int, rope_dims: int, kind: RowKind) -> mx.array:
    """Float32 rows [..., width] of stored ones, whose dtype says how they are stored."""
    if stored.dtype != mx.uint8:
        return stored.astype(mx.float32)
    return unpack_key(stored, width) if kind == "key" else unpack_latent(stored, width, rope_dims)


def _scale_bytes(scale: mx.array) -> mx.array:
    """Powers of two [..., count, 1] -> their e8m0 bytes [..., count]; NaN is byte 255."""
    return (scale[..., 0].view(mx.uint32) >> 23).astype(mx.uint8)


def pack_latent(x: mx.array, rope_dims: int) -> mx.array:
    """Rows [..., K] that `fp8_kv` rounded -> bytes [..., row_bytes].

    The largest code of a block may have been rounded down to half the limit; then the scale found
    here is half the quantiser's, at which the same values are codes as well.
    """
    nope = x.shape[-1] - rope_dims
    blocks, _ = _blocks(x[..., :nope], FP8_KV_BLOCK)
    scale = _fp8_scale(blocks)
    codes = _channels(mx.to_fp8(blocks / scale), nope)
    rotated = mx.contiguous(x[..., nope:].astype(mx.bfloat16)).view(mx.uint8)
    return mx.concatenate([codes, rotated, _scale_bytes(scale)], axis=-1)


def unpack_latent(stored: mx.array, width: int, rope_dims: int) -> mx.array:
    """Bytes [..., row_bytes] -> float32 [..., width]."""
    nope = width - rope_dims
    blocks, _ = _blocks(stored[..., :nope], FP8_KV_BLOCK)
    scale = e8m0_to_float(stored[..., nope + 2 * rope_dims :])[..., None]
    plain = _channels(mx.from_fp8(blocks, mx.float32) * scale, nope)
    # Rows of an odd number of bytes: no view of theirs as bf16 would be aligned.
    low, high = (
        stored[..., nope + i : nope + 2 * rope_dims : 2].astype(mx.uint32) for i in range(2)
    )
    rotated = ((low << 16) | (high << 24)).view(mx.float32)
    return mx.concatenate([plain, rotated], axis=-1)


# An e2m1 code's three bits, moved to the top of e4m3's magnitude, are 2^-6 times their value there.
_E2M1_IN_E4M3 = 2.0**6


def pack_key(x: mx.array) -> mx.array:
    """Rows [..., Ki] that `hadamard_fp4` rounded -> bytes [..., Ki / 2 + ceil(Ki / 32)]."""
    blocks, n = _blocks(x, FP4_BLOCK)
    scale = _fp4_scale(blocks)
    fp8 = _channels(mx.to_fp8(blocks / scale / _E2M1_IN_E4M3), n)
    even, odd = fp8[..., ::2], fp8[..., 1::2]
    codes = ((even >> 4) & 0x08) | ((even >> 2) & 0x07) | (odd & 0x80) | ((odd << 2) & 0x70)
    return mx.concatenate([codes, _scale_bytes(scale)], axis=-1)


@cache
def _e2m1_table() -> mx.array:
    """Both values of every byte, [256, 2]: the low nibble comes first."""
    magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    grid = magnitudes + [-value for value in magnitudes]
    return mx.array([[grid[byte & 15], grid[byte >> 4]] for byte in range(256)])


def _e2m1_pairs(codes: mx.array) -> mx.array:
    """Bytes [..., n / 2] -> float32 values [..., n]."""
    n = 2 * codes.shape[-1]
    if mx.default_device() != mx.cpu or n % 8:
        return _e2m1_table()[codes].reshape(*codes.shape[:-1], n)
    # A code's bits moved into a float are 2^-126 times its value: 3 times as fast as the table,
    # but 0.5 is subnormal there, which a GPU may take for zero.
    words = mx.contiguous(codes).view(mx.int32)[..., None]
    # The eight nibbles come to the top one by one; the sign fills up and is kept.
    bits = (words << mx.array([*range(28, -1, -4)], mx.int32)) >> 6
    values = (bits & mx.array(-0x80000000 | 0x01C00000, mx.int32)).view(mx.float32) * 2.0**126
    return values.reshape(*codes.shape[:-1], n)


def unpack_key(stored: mx.array, width: int) -> mx.array:
    """Bytes [..., Ki / 2 + ceil(Ki / 32)] -> float32 [..., Ki], Ki = `width`."""
    blocks, _ = _blocks(_e2m1_pairs(stored[..., : width // 2]), FP4_BLOCK)
    return _channels(blocks * e8m0_to_float(stored[..., width // 2 :])[..., None], width)
