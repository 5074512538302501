"""The oracle's number formats against tables of their values, written out as exact fractions."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from tests.oracle import formats_numpy as formats


def e4m3_value(code: int) -> Fraction:
    exponent, mantissa = code >> 3, code & 7
    if exponent == 0:
        return Fraction(mantissa, 8) * Fraction(1, 64)
    return (1 + Fraction(mantissa, 8)) * Fraction(2) ** (exponent - 7)


# Non-negative values in code order, so that the parity of the index is the mantissa's last bit.
E4M3_TABLE = [e4m3_value(code) for code in range(127)]
E2M1_TABLE = [Fraction(x, 2) for x in (0, 1, 2, 3, 4, 6, 8, 12)]


def nearest(table: list[Fraction], x: Fraction) -> Fraction:
    """The value closest to x, the even code when two are equally close, the last one beyond."""
    return table[min(range(len(table)), key=lambda code: (abs(table[code] - x), code % 2))]


def probes(table: list[Fraction]) -> list[Fraction]:
    """Every value, every midpoint, a hair either side of both, and points beyond the end."""
    middles = [(a + b) / 2 for a, b in pairwise(table)]
    hair = Fraction(1, 2**30)
    points = [p + d for p in table + middles for d in (-hair, 0, hair) if p + d >= 0]
    return [*points, table[-1] * 2, table[-1] * 1000]


@pytest.mark.parametrize(
    ("round_value", "table"),
    [(formats.round_e4m3, E4M3_TABLE), (formats.round_e2m1, E2M1_TABLE)],
    ids=["e4m3", "e2m1"],
)
def test_rounding_picks_the_nearest_value_and_ties_to_even(round_value, table):
    points = probes(table)
    expected = np.array([float(nearest(table, x)) for x in points])
    given = np.array([float(x) for x in points])
    np.testing.assert_array_equal(round_value(given), expected)
    np.testing.assert_array_equal(round_value(-given), -expected)


def test_every_e4m3_code_decodes_to_its_value():
    decoded = formats.decode_e4m3(np.arange(256, dtype=np.uint8))
    expected = [float(v) for v in E4M3_TABLE] + [np.nan]
    np.testing.assert_array_equal(decoded, expected + [-x for x in expected])
    assert np.signbit(decoded[128])


def test_every_e2m1_pair_decodes_low_nibble_first():
    decoded = formats.decode_e2m1_pairs(np.arange(256, dtype=np.uint8)[:, None])
    signed = [float(v) for v in E2M1_TABLE] + [-float(v) for v in E2M1_TABLE]
    np.testing.assert_array_equal(decoded, [[signed[b % 16], signed[b // 16]] for b in range(256)])
    np.testing.assert_array_equal(decoded[0x21], [0.5, 1.0])


def test_every_e8m0_code_is_a_power_of_two_but_the_last():
    decoded = formats.decode_e8m0(np.arange(256, dtype=np.uint8))
    assert [Fraction(x) for x in decoded[:255]] == [Fraction(2) ** (b - 127) for b in range(255)]
    assert np.isnan(decoded[255])


def test_bf16_keeps_eight_significant_bits_and_ties_to_even():
    ulp = 2.0**-7
    given = [1 + ulp / 2, 1 + 3 * ulp / 2, 1 + ulp / 2 + 2**-40, -1 - ulp / 2, 2**-133 * 1.5, 0.0]
    expected = [1, 1 + 2 * ulp, 1 + ulp, -1, 2**-132, 0.0]
    np.testing.assert_array_equal(formats.round_bf16(np.array(given)), expected)
    beyond = formats.round_bf16(np.array([3.4e38, -3.4e38, np.inf]))
    np.testing.assert_array_equal(beyond, [np.inf, -np.inf, np.inf])


def test_bf16_decoding_inverts_rounding_for_every_finite_pattern():
    patterns = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    values = formats.decode_bf16(patterns)
    finite = np.isfinite(values)
    assert finite.sum() == 65536 - 256
    np.testing.assert_array_equal(formats.round_bf16(values[finite]), values[finite])


def test_scale_of_an_exact_power_of_two_is_not_rounded_up():
    exponents = np.arange(-13, 30)
    for largest, reciprocal in ((448, formats.E4M3_RECIPROCAL), (6, formats.E2M1_RECIPROCAL)):
        exact = largest * 2.0**exponents
        scales = formats.ceil_power_of_two_scale(exact, reciprocal)
        np.testing.assert_array_equal(scales, 2.0**exponents)
        above = formats.ceil_power_of_two_scale(exact * (1 + 2**-7), reciprocal)
        np.testing.assert_array_equal(above, 2.0 ** (exponents + 1))


def golden_input() -> np.ndarray:
    k = np.arange(64)
    return formats.round_bf16(np.sin(0.7 * k) * (1 + k / 8))


def test_fp8_roundtrip_of_the_golden_block():
    x = golden_input()
    assert np.abs(x).max() == 8.25
    y = formats.fp8_roundtrip(x, 64)
    np.testing.assert_array_equal(y[:8], [0, 0.75, 1.25, 1.25, 0.5, -0.5625, -1.5, -1.875])
    np.testing.assert_array_equal(y[-4:], [-8, -8, -5, 1])
    assert y.sum() == -9.57421875


def test_fp4_roundtrip_of_the_golden_block():
    x = golden_input()[:32]
    assert np.abs(x).max() == 4.59375
    y = formats.fp4_roundtrip(x, 32)
    np.testing.assert_array_equal(y[:12], [0, 0.5, 1, 1, 0.5, -0.5, -1.5, -2, -1.5, 0, 1.5, 2])
    assert y.sum() == 4.0


@pytest.mark.parametrize("roundtrip", [formats.fp8_roundtrip, formats.fp4_roundtrip])
def test_blocks_are_independent_and_the_last_may_be_short(roundtrip):
    x = np.random.default_rng(0).standard_normal((3, 2, 80)) * np.geomspace(1e-3, 1e3, 80)
    apart = np.concatenate([roundtrip(x[..., :32], 32), roundtrip(x[..., 32:64], 32),
                            roundtrip(x[..., 64:], 32)], axis=-1)  # fmt: skip
    np.testing.assert_array_equal(roundtrip(x, 32), apart)
    assert not np.array_equal(roundtrip(x, 64), apart)
    np.testing.assert_array_equal(roundtrip(apart, 32), apart)
    np.testing.assert_array_equal(roundtrip(np.zeros(64), 64), np.zeros(64))


def test_a_block_of_tiny_values_keeps_the_smallest_scale():
    fp8 = formats.fp8_roundtrip(np.array([1e-6, -1e-6, 3e-9]), 64)
    np.testing.assert_array_equal(fp8, np.array([4.0, -4.0, 2.0**-6 - 2.0**-8]) * 2.0**-22)
    fp4 = formats.fp4_roundtrip(np.array([6e-7, -1e-7, 0]), 32)
    np.testing.assert_array_equal(fp4, np.array([6, -1, 0]) * 2.0**-23)


def test_hadamard_of_a_ramp_has_only_power_of_two_frequencies():
    h = formats.hadamard(np.arange(128) / 16)
    expected = np.zeros(128)
    expected[0] = 44.901281
    expected[[1, 2, 4, 8, 16, 32, 64]] = [
        -0.353553, -0.707107, -1.414214, -2.828427, -5.656854, -11.313708, -22.627417,
    ]  # fmt: skip
    np.testing.assert_allclose(h, expected, atol=5e-7)


@pytest.mark.parametrize("size", [1, 2, 32, 128])
def test_hadamard_keeps_dot_products_and_is_its_own_inverse(size):
    a, b = np.random.default_rng(0).standard_normal((2, 5, size))
    np.testing.assert_allclose(formats.hadamard(a) @ formats.hadamard(b).T, a @ b.T, atol=1e-12)
    np.testing.assert_allclose(formats.hadamard(formats.hadamard(a)), a, atol=1e-12)


def test_hadamard_refuses_other_sizes():
    with pytest.raises(ValueError, match="power of two"):
        formats.hadamard(np.ones((1, 48)))


@pytest.mark.parity
def test_rounding_equals_torch_casts():
    import torch

    patterns = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    values = formats.decode_bf16(patterns)
    values = values[np.isfinite(values)]
    e4m3 = torch.tensor(values).clamp(-448, 448).to(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(formats.round_e4m3(values), e4m3)
    floats = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    bf16 = torch.tensor(floats).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(formats.round_bf16(floats.astype(np.float64)), bf16)
    codes = torch.arange(256, dtype=torch.uint8)
    decoded = codes.view(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(formats.decode_e4m3(codes.numpy()), decoded)
