"""The embedding's streams: ids that no row has, NaN, gradients, and sizes that meet."""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels.contract import ContractError, random_normal
from metal_kernels.embed_streams import KERNEL
from metal_kernels.registry import bind
from tests.kernels.host import assert_text_matches, host_plan
from tests.kernels.pairwise import pairwise, sizes_id, thinned

pytestmark = pytest.mark.needs("metalhost")

SIZES = pairwise(
    B=[1, 3],
    S=[1, 7, 128],
    V=[1, 3, 300],
    D=[1, 4, 131, 256, 1032],
    N=[1, 3, 4],
    ids=[mx.int32, mx.uint32, mx.int64],
    dtype=[mx.bfloat16, mx.float32],
    seed=range(5),
)
# Ids by what int32 and int64 can say of them; unsigned ones wrap around.
OUTSIDE = [-1, -3, 3, 4, 2**31 - 1, -(2**31)]
FAR_OUTSIDE = [*OUTSIDE, 2**32, 2**32 + 1, 2**63 - 1, -(2**63)]


def table(V: int, D: int) -> mx.array:
    return random_normal(V + D, V, D)


@pytest.mark.parametrize("sizes", thinned(SIZES))
def test_sizes(sizes: dict) -> None:
    seed, shape = sizes["seed"], (sizes["B"], sizes["S"])
    arguments = {
        "tokens": mx.random.randint(0, sizes["V"], shape, key=mx.random.key(seed)).astype(
            sizes["ids"]
        ),
        "table": table(sizes["V"], sizes["D"]).astype(sizes["dtype"]),
        "streams": sizes["N"],
    }
    assert_text_matches(KERNEL, arguments, sizes_id(sizes), order=seed)


@pytest.mark.parametrize("dtype", [mx.int32, mx.uint32, mx.int64, mx.uint64], ids=str)
def test_ids_that_no_row_has_give_nan_and_read_nothing(dtype: mx.Dtype) -> None:
    """A row before and one behind would be found by wrapping around or by reading on."""
    beyond = FAR_OUTSIDE if dtype.size == 8 else OUTSIDE
    tokens = mx.array(np.array([[0, *beyond, 2]]).astype(f"int{8 * dtype.size}")).astype(dtype)
    arguments = {"tokens": tokens, "table": table(3, 70), "streams": 4}
    assert_text_matches(KERNEL, arguments, str(dtype))
    rows = np.isnan(np.array(KERNEL.reference(**arguments))).all(axis=(2, 3))
    assert rows.tolist() == [[False, *[True] * len(beyond), False]]


@pytest.mark.parametrize("dtype", [mx.int8, mx.uint8, mx.int16, mx.uint16], ids=str)
def test_a_table_may_have_more_rows_than_the_ids_can_name(dtype: mx.Dtype) -> None:
    tokens = mx.array([[0, 100, 127]]).astype(dtype)
    arguments = {"tokens": tokens, "table": table(70_000, 3), "streams": 2}
    assert_text_matches(KERNEL, arguments, str(dtype))
    expected = np.array(arguments["table"])[[0, 100, 127]]
    for stream in (0, 1):
        found = np.array(KERNEL.reference(**arguments))[0, :, stream]
        np.testing.assert_array_equal(found, expected)


def test_what_is_not_finite_stays_in_its_place() -> None:
    rows = np.ones((3, 70), np.float32)
    rows[1, 5], rows[2, 69] = np.nan, -np.inf
    for dtype in (mx.float32, mx.bfloat16):
        with host_plan() as plan:
            found = plan.ops.embed_streams(mx.array([[0, 2, 1]]), mx.array(rows).astype(dtype), 2)
        np.testing.assert_array_equal(np.array(found)[0], rows[[0, 2, 1]][:, None].repeat(2, 1))


def test_gradients_add_up_by_id_and_leave_out_unknown_ones() -> None:
    tokens, weights = mx.array([[1, 3, 1, -1]]), random_normal(0, 1, 4, 4, 5)

    def loss(rows: mx.array) -> mx.array:
        streams = KERNEL.reference(tokens, rows, 4)
        return mx.where(mx.isnan(streams), 0, streams * weights).sum()

    found = np.array(mx.grad(loss)(table(3, 5)))
    by_token = np.array(weights)[0].sum(axis=1)
    expected = np.stack([np.zeros(5), by_token[0] + by_token[2], np.zeros(5)])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "rows", "message"),
    [
        (mx.float32, mx.float32, "expected integer tokens but found mlx.core.float32"),
        (mx.bool_, mx.float32, "expected integer tokens but found mlx.core.bool"),
        (
            mx.int32,
            mx.float16,
            "expected a table of bfloat16 or float32 but found mlx.core.float16",
        ),
    ],
)
def test_other_dtypes_are_refused(tokens: mx.Dtype, rows: mx.Dtype, message: str) -> None:
    with pytest.raises(ContractError, match=f"^embed_streams: {message}"):
        bind("metal").ops.embed_streams(mx.zeros((1, 2), tokens), mx.zeros((3, 4), rows), 4)
