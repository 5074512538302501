"""The comparison of results: what it lets pass, and what it says where it does not."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import Kernel
from metal_kernels.shared.formats import fp8_kv, pack_latent, round_bf16
from tests.kernels.compare import assert_matches

NAN = float("nan")


def kernel(**options: object) -> Kernel:
    defaults = {"outputs": {"y": "M D"}, "tolerance": 1e-10, "inputs": {}, "summary": "a kernel"}
    return Kernel(name="toy", reference=lambda: None, **{**defaults, **options})


def array(values: object, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(np.asarray(values)).astype(dtype)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def refused(message: str, call: Callable[[], None]) -> None:
    with pytest.raises(AssertionError) as error:
        call()
    assert message in str(error.value)


def test_float32_noise_passes_and_more_does_not() -> None:
    y = normal(7, 100)
    assert_matches(kernel(), array(y * (1 + 1e-6)), array(y))
    refused(
        "toy[odd].y: normalised squared error 0.0357 is above 1e-10, 1 of 4 elements differ, "
        "worst at [1, 1]: expected 2.0 but found 2.5",
        lambda: assert_matches(
            kernel(), array([[1.0, 1], [1, 2.5]]), array([[1.0, 1], [1, 2]]), case="odd"
        ),
    )


def test_nan_has_to_stand_in_the_same_places() -> None:
    with_nan = array([[1.0, NAN, 2.0]])
    assert_matches(kernel(), with_nan, with_nan)
    for other in ([1.0, 3.0, 2.0], [NAN, NAN, 2.0]):
        refused(
            "toy.y: NaN differs, 1 of 3 elements",
            lambda other=other: assert_matches(kernel(), array([other]), with_nan),
        )


def test_infinities_have_to_be_equal() -> None:
    infinite = array([[1.0, np.inf]])
    assert_matches(kernel(), infinite, infinite)
    refused("above 1e-10", lambda: assert_matches(kernel(), array([[1.0, -np.inf]]), infinite))
    refused("above 1e-10", lambda: assert_matches(kernel(), array([[1.0, 1e30]]), infinite))


def test_integers_have_to_be_equal() -> None:
    toy, expected = kernel(outputs={"i": "M k"}), array([[1, 2, 3]], mx.uint32)
    assert_matches(toy, expected, expected)
    refused(
        "toy.i: 1 of 3 elements differ, worst at [0, 2]: expected 3 but found 4",
        lambda: assert_matches(toy, array([[1, 2, 4]], mx.uint32), expected),
    )
    refused(
        "expected mlx.core.uint32 but found mlx.core.int32",
        lambda: assert_matches(toy, array([[1, 2, 3]], mx.int32), expected),
    )


def test_shapes_and_outputs_have_to_agree() -> None:
    two = kernel(outputs={"y": "M D", "z": "M"})
    y = array(normal(2, 3))
    refused("expected shape (2, 3) but found (2, 1)", lambda: assert_matches(two, (y[:, :1],), y))
    refused("toy.z: only one of the two", lambda: assert_matches(two, (y, y[0]), (y, None)))
    assert_matches(two, y, (y, None))


def on_bf16_grid(flips: int, steps: float = 1.0) -> tuple[mx.array, mx.array]:
    """Results that differ by bfloat16 steps in the first `flips` of 1,000 elements."""
    expected = np.array(round_bf16(array(normal(10, 100))))
    actual = expected.copy().reshape(-1)
    exponent = np.floor(np.log2(np.abs(actual[:flips])))
    actual[:flips] += steps * 2.0 ** (exponent - 7)
    return array(actual.reshape(10, 100)), array(expected)


def test_one_step_of_the_grid_passes_for_one_element_in_a_hundred() -> None:
    toy = kernel(grids={"y": 2.0**-7})
    assert_matches(toy, *on_bf16_grid(10))
    refused(
        "expected at most 10 of 1000 elements to round the other way, 11 of 1000 elements differ",
        lambda: assert_matches(toy, *on_bf16_grid(11)),
    )
    refused(
        "more than one step of the grid away, 1 of 1000 elements differ",
        lambda: assert_matches(toy, *on_bf16_grid(1, steps=3.0)),
    )


def test_one_element_may_always_round_the_other_way() -> None:
    toy, (actual, expected) = kernel(grids={"y": 2.0**-7}), on_bf16_grid(1)
    assert_matches(toy, actual[:1, :5], expected[:1, :5])


def test_results_beside_the_grid_may_carry_noise() -> None:
    """A kernel that was told not to round has the same grids in its contract."""
    toy, y = kernel(grids={"y": 2.0**-7}), normal(10, 100)
    assert_matches(toy, array(y * (1 + 1e-6)), array(y))
    refused("round the other way", lambda: assert_matches(toy, array(y * 1.001), array(y)))


def packed(seed: int) -> tuple[np.ndarray, dict[str, object]]:
    """Stored rows of 192 dims, 64 of them rotated, and the arguments that say so."""
    rows = fp8_kv(mx.random.normal((9, 192), key=mx.random.key(seed)), 64)
    arguments = {"kv_norm_weight": mx.ones(192), "cos": mx.ones((9, 32))}
    return np.array(pack_latent(rows, 64)), arguments


def test_packed_rows_are_compared_by_their_values() -> None:
    toy = kernel(outputs={"kv": "S row"}, grids={"kv": 2.0**-3})
    stored, arguments = packed(0)
    flipped = stored.copy()
    # The code next to one of the larger ones: a step of e4m3.
    column = int(np.argmax((stored[0, :128] & 0x7F) % 0x78))
    flipped[0, column] ^= 1
    assert_matches(toy, array(flipped, mx.uint8), array(stored, mx.uint8), arguments=arguments)
    flipped[0, column] ^= 0x80
    refused(
        "toy.kv: more than one step of the grid away, 1 of 1728 elements differ",
        lambda: assert_matches(
            toy, array(flipped, mx.uint8), array(stored, mx.uint8), arguments=arguments
        ),
    )
