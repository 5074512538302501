"""Rotary tables against the published frequencies and the oracle's angles."""

import numpy as np
import pytest

from dsv4_mlx.model.rope import RotaryEmbedding, compressed_rope, rope_frequencies, sliding_rope
from dsv4_mlx.release.config import FLASH, PRO, RopeScaling
from tests.oracle import v4_numpy as v4

YARN = {0: 1, 1: 0.6876560219, 15: 0.003635538584, 16: 0.002265625, 20: 2.969777783e-4,
        24: 1.953125e-5, 25: 5.372312671e-6, 31: 5.680529037e-7}  # fmt: skip


def test_frequencies_of_the_release() -> None:
    for config in (FLASH, PRO):
        compressed, sliding = compressed_rope(config).frequencies, sliding_rope(config).frequencies
        assert compressed.dtype == sliding.dtype == np.float32
        for pair, frequency in YARN.items():
            np.testing.assert_allclose(compressed[pair], frequency, rtol=6e-8)
        np.testing.assert_allclose(
            sliding[[0, 1, 31]], [1, 0.7498942093, 1.333521432e-4], rtol=6e-8
        )


def test_yarn_leaves_fast_pairs_and_divides_slow_ones() -> None:
    scaling = FLASH.rope_scaling
    assert scaling is not None
    plain, scaled = rope_frequencies(64, 160000, None), rope_frequencies(64, 160000, scaling)
    np.testing.assert_array_equal(scaled[:16], plain[:16])
    np.testing.assert_allclose(scaled[25:], plain[25:] / 16, rtol=1e-7)
    ratio = scaled[16:25] / plain[16:25]
    assert (np.diff(ratio) < 0).all() and (ratio < 1).all() and (ratio > 1 / 16).all()


@pytest.mark.parametrize("dims", [8, 16, 32, 64])
@pytest.mark.parametrize(("factor", "original"), [(16, 65536), (4, 1024), (40, 128)])
def test_frequencies_equal_the_oracle(dims: int, factor: float, original: int) -> None:
    numbers = {
        "factor": factor, "original_max_position_embeddings": original,
        "beta_fast": 32, "beta_slow": 1,
    }  # fmt: skip
    found = rope_frequencies(dims, 160000, RopeScaling(**numbers))
    np.testing.assert_array_equal(found, v4.yarn_frequencies(160000, dims, **numbers))
    np.testing.assert_array_equal(
        rope_frequencies(dims, 500, None), v4.plain_frequencies(500, dims)
    )


@pytest.mark.parametrize("first", [0, 1, 777, 65_536, 1_000_003])
@pytest.mark.parametrize("stride", [1, 4, 128])
def test_tables_are_cos_and_sin_of_float32_angles(first: int, stride: int) -> None:
    """Exact at any position: an angle is one float32 product, then accurate cos and sin."""
    rope = compressed_rope(FLASH)
    cos, sin = rope.tables(first, 5, stride)
    angles = v4.rope_angles(first + stride * np.arange(5), rope.frequencies)
    np.testing.assert_array_equal(np.array(cos), np.cos(angles).astype(np.float32))
    np.testing.assert_array_equal(np.array(sin), np.sin(angles).astype(np.float32))


def test_a_table_of_no_positions_is_empty() -> None:
    cos, sin = sliding_rope(FLASH).tables(12, 0)
    assert cos.shape == sin.shape == (0, 32)


def test_layers_of_a_call_share_their_tables() -> None:
    rope = sliding_rope(FLASH)
    assert rope.tables(5, 3)[0] is rope.tables(5, 3)[0]


def test_amplitude_is_one_with_and_without_scaling() -> None:
    for rope in (sliding_rope(FLASH), compressed_rope(FLASH), RotaryEmbedding(16, 7.0, None)):
        cos, sin = (np.array(t, np.float64) for t in rope.tables(123, 50))
        np.testing.assert_allclose(cos**2 + sin**2, 1, atol=3e-7)
