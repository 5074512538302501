"""CUDA texts on the same runtime: words, launches in whole blocks, and planted mistakes."""

import mlx.core as mx
import numpy as np
import pytest

from tests.metalhost import MetalHostError, checking, cuda_kernel
from tests.metalhost.tests.support import numbers, values

pytestmark = pytest.mark.needs("metalhost")

START = """unsigned i = threadIdx.x, g = blockIdx.x * blockDim.x + threadIdx.x;
__shared__ float b[64];
"""  # lines 1 and 2


def launch(
    source: str, inputs=None, outputs=None, *, threads=64, group=None, order=0, template=(),
    header="", init_value=None,
) -> list[mx.array]:  # fmt: skip
    inputs = inputs or {}
    outputs = outputs or {"out": ((threads,), mx.float32)}
    kernel = cuda_kernel("test", list(inputs), list(outputs), source, header)
    with checking(order=order):
        return kernel(
            inputs=list(inputs.values()), output_shapes=[s for s, _ in outputs.values()],
            output_dtypes=[d for _, d in outputs.values()], grid=(threads, 1, 1),
            threadgroup=(group or threads, 1, 1), template=list(template), init_value=init_value,
        )  # fmt: skip


def test_a_block_sum_with_helpers_and_templates():
    header = """
    template <int N> __device__ float block_sum(float x) {
      __shared__ float part[N / 32];
      for (int d = 16; d; d /= 2) x += __shfl_xor_sync(0xffffffffu, x, d);
      if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
      __syncthreads();
      float sum = 0;
      for (int w = 0; w < N / 32; w++) sum += part[w];
      return sum;
    }
    """
    source = "out[threadIdx.x] = T(block_sum<N>(a[threadIdx.x] * scale[0]) + a_shape[0] + a_ndim);"
    a = numbers((128,), mx.float32)
    for order in ("ascending", "descending", 3):
        (out,) = launch(source, {"a": a, "scale": mx.array(2.0)}, {"out": ((128,), mx.bfloat16)},
                        threads=128, header=header, order=order,
                        template=[("T", mx.bfloat16), ("N", 128)])  # fmt: skip
        expected = (2 * a.sum() + 128 + 1).astype(mx.bfloat16)
        np.testing.assert_allclose(values(out), [expected.item()] * 128, rtol=2**-7)


def test_blocks_are_whole_at_the_edge():
    source = """
    unsigned g = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(out, 1);
    if (g < 70) atomicAdd(out + 1, int(blockDim.x));
    """
    (out,) = launch(source, outputs={"out": ((2,), mx.int32)}, threads=70, group=32, init_value=0)
    assert out.tolist() == [96, 70 * 32]


def test_warp_functions():
    lines = {
        "__shfl_sync(~0u, i, 5)": lambda i: 5,
        "__shfl_sync(~0u, i, 5, 8)": lambda i: i // 8 * 8 + 5,
        "__shfl_xor_sync(~0u, i, 3)": lambda i: i ^ 3,
        "__shfl_up_sync(~0u, i, 3)": lambda i: i - 3 if i >= 3 else i,
        "__shfl_down_sync(~0u, i, 3)": lambda i: i + 3 if i < 29 else i,
        "__shfl_down_sync(~0u, i, 3, 16)": lambda i: i + 3 if i % 16 < 13 else i,
        "__ballot_sync(~0u, i % 2)": lambda i: 0xAAAAAAAA,
        "__any_sync(~0u, i == 9) + 2 * __all_sync(~0u, i == 9)": lambda i: 1,
        "__reduce_add_sync(~0u, i)": lambda i: 496,
        "__reduce_max_sync(~0u, i)": lambda i: 31,
        "__popc(i) + 100 * __ffs(i)": lambda i: i.bit_count() + 100 * (i & -i).bit_length(),
    }
    body = ["unsigned i = threadIdx.x;"]
    body += [f"out[{r} * 32 + i] = {call};" for r, call in enumerate(lines)]
    outputs = {"out": ((len(lines), 32), mx.uint32)}
    (out,) = launch("\n".join(body), outputs=outputs, threads=32, order=5)
    for row, (call, model) in zip(out.tolist(), lines.items(), strict=True):
        assert row == [model(i) for i in range(32)], call


HEADER = "__device__ int count;"

# fmt: off
MISTAKES = {
    "no __syncthreads": ("race", 3,
        "b[i] = 0; __syncthreads(); b[i] = a[i];\nout[i] = b[63 - i];"),
    "__syncwarp instead of __syncthreads": ("race", 3,
        "b[i] = 0; __syncthreads(); b[i] = a[i];\n__syncwarp();\nout[i] = b[63 - i];"),
    "an index behind shared memory": ("index out of range", 3, "b[i + 1] = 0; out[i] = 0;"),
    "a pointer behind shared memory": ("out of bounds", 4, "float* p = b + i;\np[64] = 0;"),
    "an index behind an input": ("out of bounds", 3, "out[i] = a[i + 1];"),
    "shared memory that nobody wrote": ("uninitialised read", 3, "out[i] = b[i];"),
    "a write to an input": ("write to input", 3, "((float*)a)[i] = 0; out[i] = 0;"),
    "an unwritten output": ("unwritten output", None, "if (i) out[i] = 0;"),
    "__syncthreads in a branch": ("barrier divergence", 3, "if (i < 32) __syncthreads();"),
    "a shuffle in a branch": ("simd divergence", 3,
        "if (i < 16) out[i] = __shfl_xor_sync(~0u, 1.0f, 1);"),
    "a mask that leaves lanes out": ("simd argument", 3,
        "out[i] = __shfl_xor_sync(0xffffu, 1.0f, 1);"),
    "a misaligned float4": ("misaligned access", 3, "out[i] = ((const float4*)(a + 1))->x;"),
    "a copied float4 that is misaligned": ("misaligned access", 3,
        "float4 v = *(const float4*)(a + 1); out[i] = v.x + v.w;"),
    "an unknown function": ("compile", 3, "out[i] = cg::this_grid();"),
    "an uninitialised variable": ("compile", 4, "float x;\nout[i] = x;"),
    "a variable of the program": ("compile", None, "out[i] = atomicAdd(&count, 1);"),
    "more than 48 KB": ("compile", None,
        "__shared__ float z[12288]; z[i] = b[i] = 0; out[i] = z[i];"),
}
# fmt: on


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name):
    kind, line, lines = MISTAKES[name]
    with pytest.raises(MetalHostError) as caught:
        launch(
            START + lines,
            {"a": mx.arange(64, dtype=mx.float32)},
            header=HEADER if "count" in lines else "",
        )
    assert (caught.value.kind, caught.value.line) == (kind, line), str(caught.value)


def test_a_grid_bound_is_needed_at_the_edge():
    source = "unsigned g = blockIdx.x * blockDim.x + threadIdx.x;\nout[g] = 1;"
    with pytest.raises(MetalHostError, match="out of bounds"):
        launch(source, threads=70, group=32)


def test_shared_memory_of_the_launch_is_refused():
    with pytest.raises(ValueError, match="given at the launch"):
        cuda_kernel("k", [], ["out"], "out[0] = 0;", shared_memory=1024)
