"""dense_matvec's text: every tile edge, both dtypes, and what NaN reaches."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import random_normal
from metal_kernels.registry import bind, kernels
from tests.kernels.cuda_signature import recorded
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

KERNEL = kernels()["dense_matvec"]
SIZES = pairwise(
    M=[1, 3, 7, 8, 9, 128],
    width=[1, 131, 256, 520, 4096],
    out=[1, 17, 257, 515],
    dtype=[mx.bfloat16, mx.float32],
    seed=range(5),
)


def arguments(M: int, width: int, out: int, dtype: mx.Dtype, seed: int) -> dict[str, mx.array]:
    weight = random_normal(seed + 1, out, width).astype(dtype)
    return {"x": random_normal(seed, M, width), "weight": weight}


@pytest.mark.parametrize("sizes", thinned(SIZES))
def test_sizes(sizes: dict) -> None:
    assert_text_matches(KERNEL, arguments(**sizes), sizes_id(sizes), order=sizes["seed"])


def product(x: mx.array, weight: mx.array) -> np.ndarray:
    with host_plan() as plan:
        return np.array(plan.ops.dense_matvec(x, weight))


@pytest.mark.parametrize("width", [24, 25])
def test_small_whole_numbers_are_multiplied_exactly(width: int) -> None:
    """No value of the weight is rounded and no column is left out or taken twice."""
    rng = np.random.default_rng(0)
    x, weight = rng.integers(-16, 17, (5, width)), rng.integers(-16, 17, (7, width))
    for dtype in (mx.bfloat16, mx.float32, mx.float16):
        found = product(mx.array(x, mx.float32), mx.array(weight).astype(dtype))
        np.testing.assert_array_equal(found, x @ weight.T)


@pytest.mark.parametrize("width", [64, 65])
def test_nan_and_infinity_reach_only_their_row_and_output(width: int) -> None:
    x, weight = np.ones((3, width), np.float32), np.ones((5, width), np.float32)
    x[1, width - 1], weight[2, 3], weight[4, 0] = np.nan, np.nan, np.inf
    expected = np.full((3, 5), float(width))
    expected[:, 4], expected[1], expected[:, 2] = np.inf, np.nan, np.nan
    found = product(mx.array(x), mx.array(weight).astype(mx.bfloat16))
    np.testing.assert_array_equal(found, expected)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Reading a prompt in other pieces must not change its numbers."""
    x, weight = arguments(13, 264, 19, mx.bfloat16, seed=3).values()
    together = product(x, weight)
    for first, count in ((0, 1), (5, 2), (1, 4), (2, 8), (12, 1)):
        rows = slice(first, first + count)
        np.testing.assert_array_equal(product(x[rows], weight), together[rows])


def test_the_smallest_numbers_of_a_weight_enter() -> None:
    """Widening by bits keeps bfloat16's subnormals, as the reference does."""
    weight = mx.full((1, 8), 2.0**-130).astype(mx.bfloat16)
    found = product(mx.full((1, 8), 2.0**60), weight)
    assert found.tolist() == [[2.0**-67]]


@pytest.mark.parametrize("out", [8, 1024])
def test_one_row_and_several_are_all_the_variants(out: int) -> None:
    """A prompt's end, a batch or a draft has any number of rows and waits for no compiler."""
    weight = mx.ones((out, 64), mx.bfloat16)
    with recorded() as launches:
        for rows in (1, 2, 3, 4, 5, 8, 9, 40):
            bind("cuda").ops.dense_matvec(mx.ones((rows, 64)), weight)
    assert len({launch.variant for launch in launches}) == 2
