"""Number formats of the official engine in float64: BF16, E4M3, E2M1, UE8M0 scales, Hadamard.

Every function takes and returns float64 values that the format can represent exactly; nothing is
packed. A format is two numbers: how many significant bits a value has, and the exponent of its
smallest normal number. Below that exponent the spacing stays what it is there (subnormals).
"""

import numpy as np

BF16_BITS, BF16_MIN_EXPONENT = 8, -126
E4M3_BITS, E4M3_MIN_EXPONENT, E4M3_MAX = 4, -6, 448.0
E2M1_BITS, E2M1_MIN_EXPONENT, E2M1_MAX = 2, 0, 6.0
# The official kernels multiply by a float32 reciprocal instead of dividing by the maximum.
E4M3_RECIPROCAL = np.float32(1.0) / np.float32(448.0)
E2M1_RECIPROCAL = np.float32(1.0) / np.float32(6.0)
# A block of zeros still needs a scale: these are the smallest absolute maxima assumed.
FP8_SMALLEST_MAX = float(np.float32(1e-4))
FP4_SMALLEST_MAX = 6.0 * 2.0**-126


def round_to_format(x: np.ndarray, significant_bits: int, min_exponent: int) -> np.ndarray:
    """Nearest value with that many significant bits, ties to even, no upper limit. Any shape."""
    _, exponent = np.frexp(x)  # |x| = fraction * 2**exponent with fraction in [0.5, 1)
    spacing = np.maximum(exponent - 1, min_exponent) - (significant_bits - 1)
    return np.ldexp(np.rint(np.ldexp(x, -spacing)), spacing)


def round_bf16(x: np.ndarray) -> np.ndarray:
    """Nearest bfloat16 value, ties to even, infinity beyond the largest. Any shape, float64."""
    rounded = round_to_format(x, BF16_BITS, BF16_MIN_EXPONENT)
    return np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, rounded), rounded)


def round_e4m3(x: np.ndarray) -> np.ndarray:
    """Nearest FP8 e4m3 value of x limited to +-448, ties to even."""
    return round_to_format(np.clip(x, -E4M3_MAX, E4M3_MAX), E4M3_BITS, E4M3_MIN_EXPONENT)


def round_e2m1(x: np.ndarray) -> np.ndarray:
    """Nearest FP4 e2m1 value of x limited to +-6, ties to the even mantissa."""
    return round_to_format(np.clip(x, -E2M1_MAX, E2M1_MAX), E2M1_BITS, E2M1_MIN_EXPONENT)


def ceil_power_of_two_scale(absolute_max: np.ndarray, reciprocal: np.float32) -> np.ndarray:
    """2**ceil(log2(absolute_max * reciprocal)) with the product in float32, read from its bits."""
    product = np.asarray(absolute_max, np.float32) * reciprocal
    fraction, exponent = np.frexp(product)
    # An exact power of two has fraction 0.5 and is its own scale; anything above goes up.
    return np.ldexp(1.0, np.where(fraction == 0.5, exponent - 1, exponent))


def _in_blocks(x: np.ndarray, block: int) -> np.ndarray:
    """[..., C] -> [..., ceil(C / block), block], the last block filled up with zeros."""
    missing = -x.shape[-1] % block
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return padded.reshape(*x.shape[:-1], padded.shape[-1] // block, block)


def _roundtrip(x, block, smallest_max, reciprocal, round_element) -> np.ndarray:
    x = np.asarray(x, np.float64)
    blocks = _in_blocks(x, block)
    absolute_max = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), smallest_max)
    scale = ceil_power_of_two_scale(absolute_max, reciprocal)
    quantized = round_element(blocks / scale) * scale
    channels = blocks.shape[-2] * block
    return quantized.reshape(*x.shape[:-1], channels)[..., : x.shape[-1]]


def fp8_roundtrip(x: np.ndarray, block: int = 64) -> np.ndarray:
    """Quantise to FP8 e4m3 with one power-of-two scale per block of channels, and back. [..., C]"""
    return _roundtrip(x, block, FP8_SMALLEST_MAX, E4M3_RECIPROCAL, round_e4m3)


def fp4_roundtrip(x: np.ndarray, block: int = 32) -> np.ndarray:
    """Quantise to FP4 e2m1 with one power-of-two scale per block of channels, and back. [..., C]"""
    return _roundtrip(x, block, FP4_SMALLEST_MAX, E2M1_RECIPROCAL, round_e2m1)


def hadamard(x: np.ndarray) -> np.ndarray:
    """Walsh-Hadamard transform of the last axis [..., C = 2**k], natural order, times C**-0.5."""
    size = x.shape[-1]
    if size & (size - 1):
        raise ValueError(f"hadamard: expected a power of two channels, found {size}.")
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return x @ matrix * size**-0.5


def decode_bf16(raw: np.ndarray) -> np.ndarray:
    """uint16 patterns -> float64."""
    with np.errstate(invalid="ignore"):  # signalling NaN patterns
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def decode_e4m3(raw: np.ndarray) -> np.ndarray:
    """uint8 codes -> float64; 0x7f and 0xff are NaN, there is no infinity."""
    exponent, mantissa = (raw >> 3 & 15).astype(np.int64), (raw & 7).astype(np.float64)
    subnormal = exponent == 0
    magnitude = np.ldexp(mantissa / 8 + ~subnormal, np.where(subnormal, -6, exponent - 7))
    magnitude = np.where((raw & 0x7F) == 0x7F, np.nan, magnitude)
    return np.where(raw & 0x80, -magnitude, magnitude)


def decode_e2m1_pairs(raw: np.ndarray) -> np.ndarray:
    """uint8 [..., C/2] -> float64 [..., C]: the low nibble comes first, bit 3 is the sign."""
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    table = np.concatenate([grid, -grid])
    pairs = np.stack([table[raw & 15], table[raw >> 4]], axis=-1)
    return pairs.reshape(*raw.shape[:-1], -1)


def decode_e8m0(raw: np.ndarray) -> np.ndarray:
    """uint8 codes b -> 2**(b - 127) in float64; 255 is NaN."""
    return np.where(raw == 255, np.nan, np.ldexp(1.0, raw.astype(np.int64) - 127))
