"""FP8, FP4, bf16 and power-of-two scales: every code, every tie, every boundary."""

from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.shared import formats
from tests.oracle import formats_numpy as oracle

E4M3 = oracle.decode_e4m3(np.arange(127, dtype=np.uint8))
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def found(function, x: np.ndarray, *options: object) -> np.ndarray:
    return np.array(function(mx.array(np.asarray(x, np.float32)), *options), np.float64)


def golden_input() -> np.ndarray:
    k = np.arange(64)
    return oracle.round_bf16(np.sin(0.7 * k) * (1 + k / 8))


def nearest_even(table: np.ndarray, x: float) -> float:
    """The closest value of a table in code order; of two equally close ones the even code."""
    distance = [abs(Fraction(float(value)) - Fraction(x)) for value in table]
    return float(table[min(range(len(table)), key=lambda i: (distance[i], i % 2))])


def around(table: np.ndarray) -> np.ndarray:
    """Values, middles and the float32 numbers next to both, and numbers beyond the end."""
    points = np.concatenate([table, (table[1:] + table[:-1]) / 2]).astype(np.float32)
    below, above = (np.nextafter(points, np.float32(to)) for to in (-1e9, 1e9))
    return np.concatenate([points, above, below[below >= 0], table[-1:] * [2]])


def test_every_fp8_code_survives() -> None:
    """One code per block beside 448, which keeps the scale at one."""
    blocks = np.stack([E4M3, np.full(127, 448.0)], axis=1)
    np.testing.assert_array_equal(found(formats.fp8_roundtrip, blocks, 2), blocks)
    np.testing.assert_array_equal(found(formats.fp8_roundtrip, -blocks, 2), -blocks)


def test_fp8_rounds_to_the_nearest_code_ties_to_even() -> None:
    points = around(E4M3)
    points = points[points <= 448]
    blocks = np.stack([points, np.full(len(points), 448.0)], axis=1)
    expected = [nearest_even(E4M3, x) for x in points]
    np.testing.assert_array_equal(found(formats.fp8_roundtrip, blocks, 2)[:, 0], expected)


def test_every_fp4_code_survives() -> None:
    blocks = np.stack([E2M1, np.full(8, 6.0)], axis=1)
    np.testing.assert_array_equal(found(formats.fp4_roundtrip, blocks, 2), blocks)
    np.testing.assert_array_equal(found(formats.fp4_roundtrip, -blocks, 2), -blocks)


def test_fp4_rounds_to_the_nearest_code_ties_to_even_and_saturates() -> None:
    points = around(E2M1)
    expected = [nearest_even(E2M1, x) for x in points]
    np.testing.assert_array_equal(found(formats.round_e2m1, points), expected)
    np.testing.assert_array_equal(found(formats.round_e2m1, -points), np.negative(expected))


def test_golden_fp8_block() -> None:
    y = found(formats.fp8_roundtrip, golden_input(), 64)
    np.testing.assert_array_equal(y[:8], [0, 0.75, 1.25, 1.25, 0.5, -0.5625, -1.5, -1.875])
    np.testing.assert_array_equal(y[-4:], [-8, -8, -5, 1])
    assert y.sum() == -9.57421875


def test_golden_fp4_block() -> None:
    y = found(formats.fp4_roundtrip, golden_input()[:32], 32)
    np.testing.assert_array_equal(y[:12], [0, 0.5, 1, 1, 0.5, -0.5, -1.5, -2, -1.5, 0, 1.5, 2])
    assert y.sum() == 4.0


def test_golden_hadamard() -> None:
    expected = np.zeros(128)
    expected[0] = 44.901281
    expected[1 << np.arange(7)] = -0.353553 * 2.0 ** np.arange(7)
    np.testing.assert_allclose(found(formats.hadamard, np.arange(128) / 16), expected, atol=4e-5)


@pytest.mark.parametrize("limit", [formats.E4M3_MAX, formats.E2M1_MAX])
def test_a_maximum_at_the_limit_times_a_power_of_two_is_not_rounded_up(limit: float) -> None:
    powers = 2.0 ** np.arange(-13, 60)
    scales = found(formats.power_of_two_scale, limit * powers, limit)
    np.testing.assert_array_equal(scales, powers)


@pytest.mark.parametrize(
    ("limit", "reciprocal"), [(448.0, oracle.E4M3_RECIPROCAL), (6.0, oracle.E2M1_RECIPROCAL)]
)
def test_scales_next_to_a_power_of_two(limit: float, reciprocal: np.float32) -> None:
    """The 64 float32 numbers on either side of every boundary, where a logarithm is off by one."""
    bits = (limit * 2.0 ** np.arange(-13, 40)).astype(np.float32).view(np.int32)
    maxima = (bits[:, None] + np.arange(-64, 65, dtype=np.int32)).view(np.float32)
    expected = oracle.ceil_power_of_two_scale(maxima, reciprocal)
    np.testing.assert_array_equal(found(formats.power_of_two_scale, maxima, limit), expected)
    assert (expected[:, -1] == 2 * expected[:, 0]).all()


@pytest.mark.parametrize(
    ("ours", "theirs", "block"),
    [(formats.fp8_roundtrip, oracle.fp8_roundtrip, 64),
     (formats.fp4_roundtrip, oracle.fp4_roundtrip, 32)],
    ids=["fp8", "fp4"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 31, 64, 97, 448])
def test_round_trips_equal_the_oracle(ours, theirs, block: int, size: int) -> None:
    x = np.random.default_rng(size).standard_normal((5, 3, size)) * np.geomspace(1e-4, 1e4, size)
    x = x.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(found(ours, x, block), theirs(x, block))
    np.testing.assert_array_equal(found(ours, np.zeros((2, size)), block), np.zeros((2, size)))


@pytest.mark.parametrize("size", [1e-4, 3e-6, 1e-12])
def test_tiny_blocks_keep_the_smallest_fp8_scale(size: float) -> None:
    x = (np.random.default_rng(0).standard_normal(64) * size).astype(np.float32)
    np.testing.assert_array_equal(found(formats.fp8_roundtrip, x), oracle.fp8_roundtrip(x))


def test_bf16_rounds_to_even_like_the_oracle() -> None:
    bits = np.random.default_rng(0).integers(0, 0x7E000000, 20_000, dtype=np.int64)
    ties = (bits & ~0xFFFF) | 0x8000
    x = np.concatenate([bits, ties]).astype(np.uint32).view(np.float32)
    x = x[np.abs(x) > 1e-30].astype(np.float64)
    np.testing.assert_array_equal(found(formats.round_bf16, x), oracle.round_bf16(x))
    np.testing.assert_array_equal(found(formats.round_bf16, -x), -oracle.round_bf16(x))


def test_every_e8m0_code() -> None:
    codes = np.arange(256, dtype=np.uint8)
    values = np.array(formats.e8m0_to_float(mx.array(codes)), np.float64)
    np.testing.assert_array_equal(values[:255], 2.0 ** (np.arange(255) - 127.0))
    assert np.isnan(values[255])


@pytest.mark.parametrize("size", [32, 64, 128])
def test_hadamard_equals_the_sylvester_matrix_and_keeps_products(size: int) -> None:
    a, b = np.random.default_rng(size).standard_normal((2, 5, size))
    turned_a, turned_b = (found(formats.hadamard, x) for x in (a, b))
    np.testing.assert_allclose(turned_a, oracle.hadamard(a), atol=1e-5)
    np.testing.assert_allclose(turned_a @ turned_b.T, a @ b.T, atol=1e-4)


def test_index_rounding_is_bf16_hadamard_bf16_fp4() -> None:
    x = np.random.default_rng(3).integers(-8, 9, (40, 128)).astype(np.float64)
    expected = oracle.fp4_roundtrip(oracle.round_bf16(oracle.hadamard(x)), 32)
    np.testing.assert_array_equal(found(formats.hadamard_fp4, x), expected)


def test_kv_rounding_leaves_the_rotated_dims_in_bf16() -> None:
    x = np.random.default_rng(4).standard_normal((3, 160)).astype(np.float32).astype(np.float64)
    y, bf16 = found(formats.fp8_kv, x, 32), oracle.round_bf16(x)
    np.testing.assert_array_equal(y[:, 128:], bf16[:, 128:])
    np.testing.assert_array_equal(y[:, :128], oracle.fp8_roundtrip(bf16[:, :128], 64))
