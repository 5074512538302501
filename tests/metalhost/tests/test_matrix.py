"""simdgroup_matrix: layout, memory and products."""

import mlx.core as mx
import numpy as np
import pytest

from tests.metalhost import MetalHostError
from tests.metalhost.tests.support import launch, numbers, values

pytestmark = pytest.mark.needs("metalhost")


def test_elements_lie_where_steel_puts_them():
    """MLX: qid = lane / 4, row (qid & 4) + lane / 2 % 4, columns (qid & 2) * 2 + lane % 2 * 2."""
    source = """
    simdgroup_float8x8 m;
    simdgroup_load(m, a, 8);
    uint lane = thread_index_in_simdgroup;
    out[2 * lane] = m.thread_elements()[0];
    out[2 * lane + 1] = m.thread_elements()[1];
    """
    a = mx.arange(64, dtype=mx.float32)
    (out,) = launch(source, {"a": a}, {"out": ((32, 2), mx.float32)})
    for lane, (first, second) in enumerate(out.tolist()):
        qid = lane // 4
        row, column = (qid & 4) + lane // 2 % 4, (qid & 2) * 2 + lane % 2 * 2
        assert (first, second) == (8 * row + column, 8 * row + column + 1)


PRODUCT = """
simdgroup_matrix<T, 8, 8> x, y;
simdgroup_float8x8 d = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
for (int k = 0; k < 3; k++) {
  simdgroup_load(x, a + 8 * k, 24);
  simdgroup_load(y, b, 8, ulong2(0, 8 * k));
  simdgroup_multiply_accumulate(d, x, y, d);
}
simdgroup_store(d, out, 8);
"""


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_products_accumulate_in_float(dtype):
    a, b = numbers((8, 24), dtype, 1), numbers((24, 8), dtype, 2)
    (out,) = launch(
        PRODUCT, {"a": a, "b": b}, {"out": ((8, 8), mx.float32)}, template=[("T", dtype)], order=2
    )
    np.testing.assert_allclose(
        values(out), values(a).astype(float) @ values(b), rtol=1e-5, atol=1e-5
    )


def test_transposed_load_and_store_through_threadgroup_memory():
    source = """
    threadgroup float tile[64];
    simdgroup_float8x8 m, r;
    simdgroup_load(m, a, 8, ulong2(0), true);
    simdgroup_store(m, tile, 8);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_load(r, tile, 8);
    simdgroup_multiply(m, r, simdgroup_float8x8(2.0f));
    simdgroup_store(m, out, 8);
    """
    a = numbers((8, 8), mx.float32)
    (out,) = launch(source, {"a": a}, {"out": ((8, 8), mx.float32)})
    assert mx.array_equal(out, 2 * a.T)


def test_a_load_behind_the_end_is_found():
    with pytest.raises(MetalHostError, match=r"out of bounds: .*body:2"):
        launch(
            "simdgroup_float8x8 m;\nsimdgroup_load(m, a + 1, 8);\nsimdgroup_store(m, out, 8);",
            {"a": mx.zeros((64,))},
            {"out": ((64,), mx.float32)},
        )


def test_other_sizes_are_refused():
    with pytest.raises(MetalHostError, match="8x8"):
        launch("simdgroup_matrix<float, 16, 8> m; out[0] = 0;")
