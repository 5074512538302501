"""The checkpoint's number formats in plain numpy: a second, independent account of their values.

Tables instead of bit tricks, so that the MLX codecs are tested against something written another
way. e4m3 is the "fn" kind (no infinity, 0x7f and 0xff are NaN), e2m1 is FP4, e8m0 is a power of
two.
"""

import numpy as np

E2M1_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1_CODES = np.concatenate([E2M1_VALUES, -E2M1_VALUES])  # index = the four-bit code


def _e4m3_value(code: int) -> float:
    exponent, mantissa = code >> 3 & 15, code & 7
    if code & 127 == 127:
        return float("nan")
    size = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -size if code & 128 else size


E4M3_CODES = np.array([_e4m3_value(code) for code in range(256)], np.float32)
E4M3_VALUES = E4M3_CODES[:127]  # 0 to 448, ascending


def encode_sign_magnitude(x: np.ndarray, values: np.ndarray, sign_bit: int) -> np.ndarray:
    """uint8 codes of the nearest entries of ascending `values`, ties to the even code."""
    size = np.abs(x.astype(np.float64))
    upper = np.clip(np.searchsorted(values, size), 1, len(values) - 1)
    middle = (values[upper].astype(np.float64) + values[upper - 1]) / 2
    rounds_up = (size > middle) | ((size == middle) & (upper % 2 == 0))
    code = np.where(rounds_up, upper, upper - 1)
    return (code | np.where(np.signbit(x), sign_bit, 0)).astype(np.uint8)


def power_of_two_scale(largest: np.ndarray, limit: float) -> np.ndarray:
    """e8m0 bytes of the smallest powers of two with largest / scale <= limit."""
    mantissa, exponent = np.frexp(np.maximum(largest.astype(np.float64), 1e-30) / limit)
    return (np.where(mantissa == 0.5, exponent - 1, exponent) + 127).astype(np.uint8)


def e8m0_values(codes: np.ndarray) -> np.ndarray:
    """Powers of two of e8m0 bytes, float32; 255 is NaN."""
    values = np.ldexp(np.float32(1), codes.astype(np.int32) - 127)
    return np.where(codes == 255, np.float32("nan"), values).astype(np.float32)


def expand_blocks(scales: np.ndarray, shape: tuple[int, int], block: int = 128) -> np.ndarray:
    """One number per block x block square -> one per element; the last squares may be ragged."""
    return scales.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]]


def _block_maxima(x: np.ndarray, block: int) -> np.ndarray:
    rows, columns = -(-x.shape[0] // block), -(-x.shape[1] // block)
    padded = np.zeros((rows * block, columns * block), x.dtype)
    padded[: x.shape[0], : x.shape[1]] = np.abs(x)
    return padded.reshape(rows, block, columns, block).max((1, 3))


def quantize_fp8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[out, in] -> e4m3 codes uint8 [out, in], e8m0 scales uint8 [ceil(out/128), ceil(in/128)]."""
    scales = power_of_two_scale(_block_maxima(x, 128), 448)
    scaled = x / expand_blocks(e8m0_values(scales), x.shape)
    return encode_sign_magnitude(scaled, E4M3_VALUES, 128), scales


def quantize_fp8_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n, m] -> e4m3 codes uint8 [n, m], e8m0 scales uint8 [n, m/32]."""
    groups = x.reshape(x.shape[0], -1, 32)
    scales = power_of_two_scale(np.abs(groups).max(-1), 448)
    scaled = (groups / e8m0_values(scales)[..., None]).reshape(x.shape)
    return encode_sign_magnitude(scaled, E4M3_VALUES, 128), scales


def dequantize_fp8_rows(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """e4m3 codes [n, m] times e8m0 scales [n, m/32] -> float32 [n, m]."""
    return E4M3_CODES[codes.view(np.uint8)] * e8m0_values(scales).repeat(32, 1)


def quantize_fp8_float_scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FP8 codes of `x` and float32 scales that use the whole range, as the Base releases have."""
    scales = (_block_maxima(x, 128) / 448).astype(np.float32)
    scaled = np.clip(x / expand_blocks(scales, x.shape), -448, 448)
    return encode_sign_magnitude(scaled, E4M3_VALUES, 128), scales


def quantize_fp4(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[out, in] -> bytes int8 [out, in/2] (even input low), e8m0 scales uint8 [out, in/32]."""
    groups = x.reshape(x.shape[0], -1, 32)
    scales = power_of_two_scale(np.abs(groups).max(-1), 6)
    scaled = (groups / e8m0_values(scales)[..., None]).reshape(x.shape)
    codes = encode_sign_magnitude(scaled, E2M1_VALUES, 8)
    return (codes[:, ::2] | codes[:, 1::2] << 4).view(np.int8), scales


def dequantize_fp8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """e4m3 codes [out, in] times e8m0 (uint8) or float32 block scales -> float32 [out, in]."""
    factors = e8m0_values(scales) if scales.dtype == np.uint8 else scales
    return E4M3_CODES[codes.view(np.uint8)] * expand_blocks(factors, codes.shape)


def dequantize_fp4(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Packed e2m1 [out, in/2] times e8m0 [out, in/32] -> float32 [out, in]."""
    nibbles = packed.view(np.uint8)[..., None] >> np.array([0, 4], np.uint8) & 15
    values = E2M1_CODES[nibbles.reshape(packed.shape[0], -1)]
    return values * e8m0_values(scales).repeat(32, 1)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even, as uint16 bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    """uint16 bits of bfloat16 -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
