"""Stored rows: every code and scale comes back, rounded rows come back as they were."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.shared import formats
from tests.oracle import formats_numpy as oracle

LATENTS = [(512, 64), (192, 64), (64, 64), (160, 32), (66, 2), (128, 2), (100, 36), (320, 64)]
KEYS = [32, 64, 128]
NAN = float("nan")


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed))


def all_sizes(width: int, seed: int = 0) -> mx.array:
    """Rows whose size goes from 1e-9 to 1e30, and rows that mix sizes."""
    x = normal(80, width, seed=seed)
    rows = mx.array(np.geomspace(1e-9, 1e30, 40), mx.float32)[:, None]
    mixed = mx.array(np.geomspace(1e-6, 1e6, width), mx.float32)
    return mx.concatenate([x[:40] * rows, x[40:] * mixed])


def same(found: mx.array, expected: mx.array) -> None:
    assert found.shape == expected.shape
    np.testing.assert_array_equal(np.array(found), np.array(expected))


def bytes_of(*parts: object) -> mx.array:
    return mx.array(np.concatenate([np.atleast_1d(p) for p in parts]).astype(np.uint8))


def test_every_fp8_code_at_every_scale() -> None:
    """256 codes are four blocks; products below the normal numbers are no rounded row."""
    codes = np.arange(256)
    values = (oracle.decode_e4m3(codes.astype(np.uint8))).astype(np.float32)
    for scale in range(256):
        found = formats.unpack_latent(bytes_of(codes, [0] * 4, [scale] * 4), 258, 2)
        with np.errstate(over="ignore"):
            expected = values * np.float32(oracle.decode_e8m0(np.array(scale, np.uint8)))
        np.testing.assert_array_equal(np.array(found)[:256], expected, err_msg=f"scale {scale}")


def test_every_pair_of_fp4_codes_at_every_scale() -> None:
    codes = np.arange(256)
    values = oracle.decode_e2m1_pairs(codes.astype(np.uint8)).astype(np.float32)
    for scale in range(256):
        found = formats.unpack_key(bytes_of(codes, [scale] * 16), 512)
        with np.errstate(over="ignore"):
            expected = values * np.float32(oracle.decode_e8m0(np.array(scale, np.uint8)))
        np.testing.assert_array_equal(np.array(found), expected, err_msg=f"scale {scale}")


def test_the_table_of_fp4_pairs_is_the_arithmetic() -> None:
    """What a GPU reads instead; bytes whose number is no multiple of four read it everywhere."""
    codes = mx.arange(256).astype(mx.uint8)
    same(formats._e2m1_table().reshape(-1), formats._e2m1_pairs(codes))
    same(formats._e2m1_pairs(codes[:255]), formats._e2m1_pairs(codes)[:510])


def test_every_bf16_pattern_of_the_rotated_dims() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 32)
    bits = patterns.view(np.uint8)
    rows = np.concatenate([np.zeros((len(bits), 1)), bits, np.full((len(bits), 1), 127)], axis=1)
    found = np.array(formats.unpack_latent(mx.array(rows.astype(np.uint8)), 33, 32))
    np.testing.assert_array_equal(found[:, 1:], oracle.decode_bf16(patterns).astype(np.float32))


@pytest.mark.parametrize("width,rope_dims", LATENTS)
def test_rounded_latents_come_back(width: int, rope_dims: int) -> None:
    for seed in range(5):
        rounded = formats.fp8_kv(all_sizes(width, seed), rope_dims)
        stored = formats.pack_latent(rounded, rope_dims)
        nope = width - rope_dims
        assert stored.shape == (80, nope + 2 * rope_dims + -(-nope // 64))
        same(formats.unpack_latent(stored, width, rope_dims), rounded)


@pytest.mark.parametrize("width", KEYS)
def test_rounded_keys_come_back(width: int) -> None:
    for seed in range(5):
        rounded = formats.hadamard_fp4(all_sizes(width, seed))
        stored = formats.pack_key(rounded)
        assert stored.shape == (80, width // 2 + width // 32)
        same(formats.unpack_key(stored, width), rounded)


@pytest.mark.parametrize("scale", [1, 60, 105, 127, 140, 246])
def test_unpacked_rows_pack_into_the_same_values(scale: int) -> None:
    """Any row a file may hold, whatever scale it chose, as long as the quantiser's floor allows."""
    random = np.random.default_rng(scale)
    codes = random.integers(0, 256, (50, 192))
    codes[codes & 0x7F == 0x7F] = 0  # NaN codes: packing writes NaN as a scale
    tail = random.integers(0, 2, (50, 4)) * 0x40
    rows = np.concatenate([codes, tail, np.full((50, 3), max(scale, 105))], axis=1)
    latents = formats.unpack_latent(mx.array(rows.astype(np.uint8)), 194, 2)
    same(formats.unpack_latent(formats.pack_latent(latents, 2), 194, 2), latents)
    pairs = np.concatenate([random.integers(0, 256, (50, 64)), np.full((50, 4), scale)], axis=1)
    keys = formats.unpack_key(mx.array(pairs.astype(np.uint8)), 128)
    same(formats.unpack_key(formats.pack_key(keys), 128), keys)


def test_a_block_whose_largest_code_is_half_the_limit_changes_its_scale_only() -> None:
    """448 / 2 at scale 1 is packed as 448 at scale 1/2; the smallest subnormal beside it as two."""
    x = mx.array([224.0, 2.0**-9, -3.5] + [0.0] * 61 + [0.0, 0.0])
    stored = formats.pack_latent(x, 2)
    assert stored.tolist()[:3] == [0x7E, 0x02, 0xCE] and stored.tolist()[-1] == 126
    same(formats.unpack_latent(stored, 66, 2), x)


def test_golden_latent_and_key_bytes() -> None:
    k = np.arange(64)
    x = mx.array(oracle.round_bf16(np.sin(0.7 * k) * (1 + k / 8)).astype(np.float32))
    latent = mx.concatenate([formats.fp8_roundtrip(x), mx.array([1.0, -2.5])])
    stored = formats.pack_latent(latent, 2).tolist()
    assert len(stored) == 64 + 4 + 1 and stored[-1] == 127 - 5
    # 0, 0.75, 1.25, 1.25 and 0.5 are 0, 24, 40, 40 and 16 times 2^-5.
    assert stored[:5] == [0x00, 0x5C, 0x62, 0x62, 0x58]
    assert stored[64:68] == [0x80, 0x3F, 0x20, 0xC0]
    key = formats.fp4_roundtrip(x[:32])
    packed = formats.pack_key(key).tolist()
    assert len(packed) == 17 and packed[-1] == 127
    # 0, 0.5, 1, 1, 0.5, -0.5, -1.5, -2: the even dim is the low nibble.
    assert packed[:4] == [0x10, 0x22, 0x91, 0xCB]


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_nan_and_infinity_take_their_block_along_and_come_back_as_nan(bad: float) -> None:
    x = np.array(normal(2, 192, seed=1))
    x[0, 70] = bad
    rounded = formats.fp8_kv(mx.array(x), 32)
    stored = formats.pack_latent(rounded, 32)
    assert stored[0, -2].item() == 255
    found = formats.unpack_latent(stored, 192, 32)
    same(found, rounded)
    assert np.flatnonzero(np.isnan(np.array(found)).any(axis=0)).tolist() == [*range(64, 128)]
    x = np.array(normal(2, 128, seed=1))
    x[1, 40] = bad
    rounded = formats.fp4_roundtrip(mx.array(x))
    stored = formats.pack_key(rounded)
    assert stored[1, 65].item() == 255
    same(formats.unpack_key(stored, 128), rounded)
    assert np.isnan(np.array(rounded)[1, 32:64]).all()


def test_nan_in_the_rotated_dims_stays_alone() -> None:
    x = mx.array([1.0] * 64 + [NAN, -float("inf"), 3.0, float("inf")])
    rounded = formats.fp8_kv(x, 4)
    same(formats.unpack_latent(formats.pack_latent(rounded, 4), 68, 4), rounded)
    assert np.isnan(np.array(rounded)).sum() == 1


def test_zero_keeps_its_sign() -> None:
    x = mx.array([0.0, -0.0] * 32)
    for found in (
        formats.unpack_key(formats.pack_key(x), 64),
        formats.unpack_latent(formats.pack_latent(x, 2), 64, 2),
    ):
        np.testing.assert_array_equal(np.signbit(np.array(found)), np.signbit(np.array(x)))


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "compact"])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (3,), (1, 1), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("kind,width,rope_dims", [("latent", 96, 32), ("latent", 32, 32),
                                                  ("key", 64, 0)])  # fmt: skip
def test_any_shape_and_storage(storage, shape, kind, width: int, rope_dims: int) -> None:
    x = normal(*shape, width)
    rounded = formats.hadamard_fp4(x) if kind == "key" else formats.fp8_kv(x, rope_dims)
    stored = formats.store(rounded, storage, kind, rope_dims)
    size, dtype = formats.row_shape(storage, kind, width, rope_dims)
    assert stored.shape == (*shape, size) and stored.dtype == dtype
    same(formats.load_stored(stored, width, rope_dims, kind), rounded)


def test_rows_of_the_release() -> None:
    assert formats.row_shape("compact", "latent", 512, 64) == (583, mx.uint8)
    assert formats.row_shape("compact", "key", 128) == (68, mx.uint8)


def test_rows_gathered_from_the_middle_of_a_pool_come_back() -> None:
    """Slices of rows of 583 bytes begin at odd addresses and have strides."""
    rounded = formats.fp8_kv(normal(1, 40, 512), 64)
    stored = formats.pack_latent(rounded, 64)
    same(formats.load_stored(stored[:, 7:8], 512, 64, "latent"), rounded[:, 7:8])
    picked = mx.array([[39, 3, 3, 0]])
    same(formats.load_stored(stored[0][picked], 512, 64, "latent"), rounded[0][picked])
    same(formats.load_stored(stored[:, 5::3], 512, 64, "latent"), rounded[:, 5::3])
    swapped = mx.contiguous(stored.swapaxes(0, 1)).swapaxes(0, 1)
    same(formats.load_stored(swapped, 512, 64, "latent"), rounded)
