"""Types, vectors, conversions, templates and parameters: what a text may say and what it means."""

import mlx.core as mx
import numpy as np
import pytest

from tests.metalhost import MetalHostError
from tests.metalhost.tests.support import launch, numbers, values

pytestmark = pytest.mark.needs("metalhost")


def scalars(*expressions: str, header: str = "", dtype: mx.Dtype = mx.float32, **more) -> list:
    """The values of expressions, computed by one thread."""
    body = "\n".join(f"out[{i}] = {e};" for i, e in enumerate(expressions))
    shape = (len(expressions),)
    (out,) = launch(body, outputs={"out": (shape, dtype)}, threads=1, header=header, **more)
    return out.tolist()


def test_vector_constructors():
    assert scalars(
        "float4(1, 2, 3, 4).w",
        "float4(2.5f).z",
        "float4(float2(1, 2), 3, 4).y",
        "float4(1, float3(2, 3, 4)).w",
        "float3(int3(1, 2, 3)).z",
        "float2(half2(0.5h, 1.5h)).y",
        "uint2(7.9f, 3).x",
        "int4().w",
        "vec<float, 4>(1, 2, 3, 4).y",
        "metal::vec<float, 2>(5).y",
        "static_cast<float4>(uint4(9)).x",
    ) == [4, 2.5, 2, 4, 3, 1.5, 7, 0, 2, 5, 9]


def test_a_vector_of_the_wrong_length_is_refused():
    with pytest.raises(MetalHostError, match="as many as the vector has"):
        scalars("float4(1, 2, 3).x")


def test_swizzles_and_arithmetic():
    header = "float4 made() { float4 v = float4(1, 2, 3, 4); v.xz = v.zx; v.w += 1; return v; }"
    assert scalars(
        "made().x",
        "made().wzyx.x",
        "made().rgba.a",
        "made()[2]",
        "(made() * 2.0f).y",
        "dot(made(), float4(1))",
        "length(float2(3, 4))",
        "cross(float3(1, 0, 0), float3(0, 1, 0)).z",
        "all(made() > 0.5f) ? 1 : 0",
        "any(made() > 9.0f) ? 1 : 0",
        "select(float2(1, 2), float2(3, 4), float2(1, 2) > 1.5f).y",
        "normalize(float2(3, 4)).x",
        header=header,
    ) == [3, 5, 5, 1, 4, 11, 5, 1, 1, 0, 4, pytest.approx(0.6)]


def test_reinterpretation():
    assert scalars(
        "as_type<uint>(1.0f)",
        "as_type<ushort>(1.0h)",
        "as_type<ushort>(bfloat(1.0f))",
        "uint(as_type<uchar4>(0x04030201u).z)",
        "uint(as_type<half2>(0x3c004000u).x)",
        dtype=mx.uint32,
    ) == [0x3F800000, 0x3C00, 0x3F80, 3, 2]


def test_rounding_to_bfloat_and_half_is_to_nearest_even():
    a = mx.concatenate([numbers((4096,), mx.float32), mx.array([np.inf, -np.inf, 1e38, 65520.0])])
    source = """
    uint i = thread_position_in_grid.x;
    b[i] = bfloat(a[i]);
    h[i] = half(a[i]);
    """
    outputs = {"b": (a.shape, mx.bfloat16), "h": (a.shape, mx.float16)}
    b, h = launch(source, {"a": a}, outputs, threads=4100, group=256)
    assert mx.array_equal(b, a.astype(mx.bfloat16))
    assert mx.array_equal(h, a.astype(mx.float16))


def test_narrow_arithmetic_rounds_every_operation():
    header = (
        "template <typename T> float f(float a) { T x = T(a); T y = x * x; return y + T(1) - y; }"
    )
    got = scalars("f<half>(1.2f)", "f<bfloat>(1.2f)", "f<float>(1.2f)", header=header)
    for dtype, found in zip((mx.float16, mx.bfloat16, mx.float32), got, strict=True):
        x = mx.array(1.2).astype(dtype)
        y = x * x
        assert found == (y + mx.array(1).astype(dtype) - y).item()


def test_literals_and_limits():
    assert scalars(
        "INFINITY",
        "numeric_limits<float>::max()",
        "numeric_limits<half>::max()",
        "numeric_limits<bfloat>::epsilon()",
        "numeric_limits<uchar>::max()",
        "numeric_limits<int>::lowest()",
        "Limits<float>::min",
        "sizeof(1.0)",
    ) == [np.inf, np.finfo(np.float32).max, 65504, 2**-7, 255, -(2**31), -np.inf, 4]
    assert scalars("M_PI_F", "M_LN2_F") == pytest.approx([np.pi, np.log(2)])


def test_types_have_metals_sizes():
    names = "char short int long size_t half bfloat float float2 float3 float4 uchar3 half3 bool"
    sizes = [f"sizeof({name})" for name in names.split()]
    assert scalars(*sizes) == [1, 2, 4, 8, 8, 2, 2, 4, 8, 16, 16, 4, 8, 1]


def test_traits_choose_at_compile_time():
    header = """
    template <typename T, metal::enable_if_t<metal::is_integral_v<T>, bool> = true>
    float kind(T) { return 1; }
    template <typename T, metal::enable_if_t<!metal::is_integral_v<T>, bool> = true>
    float kind(T) { return 2; }
    template <typename T> using Wide = conditional_t<is_same_v<T, half>, float, T>;
    template <typename T> float wide() { return sizeof(Wide<T>); }
    """
    assert scalars("kind(1u)", "kind(1.0h)", "wide<half>()", "wide<bfloat>()", header=header) == [
        1, 2, 4, 2,
    ]  # fmt: skip


def test_structs_lambdas_tables_and_pragmas():
    header = """
    constant constexpr float table[4] = {1, 2, 4, 8};
    struct Pair {
      float a, b;
      Pair(float x, float y) : a(x), b(y) {}
      float sum() const { return a + b; }
    };
    template <int N> float total(thread const float (&x)[N]) {
      float s = 0;
      #pragma unroll
      for (int i = 0; i < N; i++) s += x[i];
      return s;
    }
    METAL_FUNC float twice(float x) { return 2 * x; }
    """
    source = """
    float mine[3] = {1, 2, 3};
    auto add = [](float x, float y) { return x + y; };
    out[0] = table[int(a[0])] + Pair(1, 2).sum() + total(mine) + twice(add(1, 1));
    """
    (out,) = launch(source, {"a": mx.array([3.0])}, {"out": ((1,), mx.float32)}, threads=1,
                    header=header)  # fmt: skip
    assert out.item() == 8 + 3 + 6 + 4


def test_template_values_of_every_kind():
    source = "out[0] = T(N) + (B ? 100 : 0) + sizeof(T);"
    (out,) = launch(source, {}, {"out": ((1,), mx.float32)}, threads=1,
                    template=[("T", mx.bfloat16), ("N", -3), ("B", True)])  # fmt: skip
    assert out.item() == 99


def test_parameters_that_mlx_generates():
    source = """
    out[0] = a_shape[0] * 100 + a_shape[1] * 10 + a_ndim;
    out[1] = a_strides[0] * 10 + a_strides[1];
    out[2] = scalar + small[1];
    out[3] = sizeof(flag) + (flag ? 1 : 0);
    """
    inputs = {
        "a": mx.zeros((2, 5)),
        "scalar": mx.array(7),
        "small": mx.array([1, 2, 3], mx.uint8),
        "flag": mx.array(True),
    }
    (out,) = launch(source, inputs, {"out": ((4,), mx.float32)}, threads=1)
    assert out.tolist() == [252, 51, 9, 2]


@pytest.mark.parametrize(
    "dtype",
    [mx.bool_, mx.uint8, mx.int8, mx.uint16, mx.int16, mx.uint32, mx.int32, mx.uint64, mx.int64,
     mx.float16, mx.bfloat16, mx.float32],
    ids=str,
)  # fmt: skip
def test_every_dtype_goes_in_and_out(dtype):
    a = numbers((3, 33), mx.float32) > 0 if dtype == mx.bool_ else numbers((3, 33), dtype)
    source = "uint i = thread_position_in_grid.x; out[i] = a[i];"
    (out,) = launch(source, {"a": a}, {"out": (a.shape, dtype)}, threads=99, group=32)
    assert out.dtype == dtype and mx.array_equal(out, a)


def test_words_that_opencl_reserves_are_free():
    (out,) = launch("float local = 1, global = 2, generic = 3; out[0] = local + global + generic;",
                    outputs={"out": ((1,), mx.float32)}, threads=1)  # fmt: skip
    assert out.item() == 6


def test_mlx_helpers():
    source = """
    uint i = thread_position_in_grid.x;
    out[i] = a[elem_to_loc(i, a_shape, a_strides, a_ndim)] + 100 * ceildiv(i, 4);
    """
    a = numbers((4, 3), mx.float32)
    (out,) = launch(source, {"a": a.T}, {"out": ((3, 4), mx.float32)}, threads=12,
                    ensure_row_contiguous=False)  # fmt: skip
    expected = values(a).T + 100 * ((np.arange(12) + 3) // 4).reshape(3, 4)
    np.testing.assert_allclose(values(out), expected, rtol=1e-6)
